"""Images per second of our training loop, of the usual tutorial loop and of bare forward and backward, in one run.

    python -m benchmarks.training --data-dir ../shared/data --cifar10 cifar10-jpeg

LeNet and SimpleCNN on MNIST, SimpleCNN and ResNet-20 on a folder of 32x32 colour images. The tutorial loop has a
torchvision data set with ToTensor and Normalize for each image, a DataLoader of 2 workers, batches of 64, plain fp32
and a `loss.item()` per step. Bare is our step on one batch already in memory. Training on 2 cores suffers from
any other load: every loop is measured in turn, several times, and its best result counts.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cyclopts
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from models.allocator import retain_freed_memory
from models.images.input_spec import InputSpec
from models.networks.registry import build_network
from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.data.raw import RawDataset
from training.data.splits import Splits, prepare_splits
from training.events import ignore_events
from training.loop.fit import fit
from training.loop.learner import make_learner, train_step, training_forward
from training.recipes.defaults import default_recipe
from training.recipes.recipe import Recipe

TUTORIAL_BATCH = 64
WARM_UP = 3  # steps that are not counted
PRECISIONS: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32", "channels_last": False},
    "bf16": {"precision": "bf16", "channels_last": False},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
}
COMPILED = {f"{name} compiled": {**settings, "compile": True} for name, settings in PRECISIONS.items()}


@dataclass(frozen=True)
class Task:
    """A network with its training images."""

    model: str
    dataset: str
    spec: InputSpec
    data: Splits
    items: Callable[[transforms.Compose], torch.utils.data.Dataset[object]]  # the tutorial's, one image at a time
    recipe: Recipe

    def network(self) -> nn.Module:
        """The network with fresh weights."""
        height, width, channels = self.spec.shape
        return build_network(self.model, channels=channels, height=height, width=width, classes=10)


def bare(task: Task, recipe: Recipe, *, seconds: float) -> float:
    """Runs steps on one batch."""
    network = task.network()
    learner = make_learner(network, task.spec, recipe, steps=10**6)
    learner.forward = training_forward(network, task.spec, recipe)
    network.train()
    batch = next(task.data.train.batches([torch.arange(recipe.batch_size)]))

    def steps() -> Iterator[int]:
        while True:
            train_step(learner, batch.images, batch.labels)
            yield len(batch)

    return rate(steps(), seconds=seconds)


def ours(task: Task, recipe: Recipe, *, images: int) -> float:
    """Runs an epoch over this many images as the command does, with augmentation and without validation."""
    train = task.data.train.take(torch.arange(min(images, len(task.data.train))))
    data = replace(task.data, train=train, validation=task.data.validation.take(torch.arange(64)))
    with tempfile.TemporaryDirectory() as folder:
        result = fit(task.network(), data, recipe.override({"epochs": 2}), Path(folder), ignore_events, spec=task.spec)
    return result.history[1].images_per_s  # the first one warms up


def tutorial(task: Task, *, workers: int, seconds: float) -> float:
    """The loop found in most tutorials."""
    per_item = transforms.Compose([transforms.ToTensor(), transforms.Normalize(task.spec.mean, task.spec.std)])
    loader = DataLoader(task.items(per_item), batch_size=TUTORIAL_BATCH, shuffle=True, num_workers=workers)
    network, criterion = task.network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def steps() -> Iterator[int]:
        running = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
            yield len(images)

    return rate(steps(), seconds=seconds)


def rate(steps: Iterator[int], *, seconds: float) -> float:
    """Images per second over `seconds`, or over all steps if there are fewer."""
    count, began = 0, math.nan
    for number, images in enumerate(steps, start=1):
        if number == WARM_UP:
            count, began = 0, time.perf_counter()
        elif number > WARM_UP:
            count += images
            if time.perf_counter() - began > seconds:
                break
    return count / (time.perf_counter() - began)


def make_task(model: str, raw: RawDataset, items: Callable[[transforms.Compose], object]) -> Task:
    """The network's default recipe for these images, all at full size, as in bare's batch."""
    assert raw.size is not None
    recipe = default_recipe(model, raw.name, images=len(raw.train), size=raw.size, mode=raw.mode)
    spec, data = prepare_splits(raw, size=raw.size, fraction=recipe.validation_fraction, seed=0)
    return Task(model, raw.name, spec, data, items, recipe.override({"device": "cpu", "initial_scale": 1.0}))  # type: ignore[arg-type]


def find_tasks(data_dir: Path | None, cifar10: Path | None) -> Iterator[Task]:
    """The tasks whose images are available."""
    options = DataOptions(data_dir=data_dir)
    root = next(place for place in options.directories if (place / "MNIST/raw").is_dir())
    mnist = load_dataset("mnist", options)
    for model in ("lenet", "simple_cnn"):
        yield make_task(model, mnist, lambda each: datasets.MNIST(root, train=True, transform=each))
    if cifar10 is not None:
        folder = load_dataset(str(cifar10))
        for model in ("simple_cnn", "resnet20"):
            yield make_task(model, folder, lambda each: datasets.ImageFolder(str(cifar10 / "train"), transform=each))


def main(
    *,
    data_dir: Path | None = None,
    cifar10: Path | None = None,
    seconds: float = 4.0,
    rounds: int = 3,
    workers: int = 2,
    compiled: bool = False,
) -> None:
    """Prints the table.

    Args:
        data_dir: the folder above MNIST/raw.
        cifar10: a folder of 32x32 colour images, train/CLASS/*.jpg; without it, MNIST only.
        seconds: per measurement.
        rounds: number of measurements; the best counts.
        workers: for the tutorial's DataLoader.
        compiled: measure torch.compile as well, which takes minutes to start.
    """
    retain_freed_memory()
    console = Console()
    title = f"Training on the CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, images/s"
    table = Table(
        "network", "images", "precision", "batch", "bare", "convscope", "of bare", "tutorial", "gain", title=title
    )
    for task in find_tasks(data_dir, cifar10):
        variants = {**PRECISIONS, **(COMPILED if compiled else {})}
        recipes = {name: task.recipe.override(dict(settings)) for name, settings in variants.items()}
        best = dict.fromkeys([("bare", name) for name in recipes] + [("ours", name) for name in recipes], 0.0)
        usual = 0.0
        for _ in track(range(rounds), f"{task.model} on {task.dataset}", console=console, transient=True):
            usual = max(usual, tutorial(task, workers=workers, seconds=seconds))
            for name, recipe in recipes.items():
                found = bare(task, recipe, seconds=seconds)
                best["bare", name] = max(best["bare", name], found)
                images = max(4 * recipe.batch_size, round(found * seconds / recipe.batch_size) * recipe.batch_size)
                best["ours", name] = max(best["ours", name], ours(task, recipe, images=images))
        for name, recipe in recipes.items():
            floor, loop = best["bare", name], best["ours", name]
            row = (f"{floor:,.0f}", f"{loop:,.0f}", f"{loop / floor:.0%}", f"{usual:,.0f}", f"{loop / usual:.1f}x")
            size = "x".join(map(str, task.spec.shape))
            table.add_row(task.model, f"{task.dataset} {size}", name, str(recipe.batch_size), *row)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    cyclopts.run(main)
