"""Images a second of this project's training loop, of the usual tutorial loop, and of bare forward and backward.

LeNet on MNIST. Run `python benchmarks/training.py --help` from the repository's root.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout this file is in, installed or not

from models.inputs import InputSpec
from models.registry import build_network
from training.datasets import data_places, load_dataset
from training.default_recipe import default_recipe
from training.learner import make_learner, train_step
from training.loop import fit
from training.recipe import Recipe
from training.report import silent
from training.splits import Splits, prepare_splits

USUAL = "tutorial: DataLoader, batch 64"


def make_network() -> nn.Module:
    """LeNet for MNIST."""
    return build_network("lenet", channels=1, height=28, width=28, classes=10)


def ours(spec: InputSpec, data: Splits, recipe: Recipe) -> float:
    """Our loop as the command runs it, augmentation included, validation not."""
    with tempfile.TemporaryDirectory() as folder:
        result = fit(make_network(), data, recipe, Path(folder), silent, spec=spec)
    return result.history[0].images_per_s


def bare(spec: InputSpec, data: Splits, recipe: Recipe, *, seconds: float) -> float:
    """Steps on one batch that is there already."""
    learner = make_learner(make_network(), spec, recipe, steps=10**6)
    images, labels = data.train.images[: recipe.batch_size], data.train.labels[: recipe.batch_size]
    learner.network.train()

    def steps() -> Iterator[int]:
        while True:
            train_step(learner, images, labels)
            yield len(images)

    return rate(steps, seconds=seconds)


def tutorial(root: Path, *, batch_size: int, workers: int, seconds: float) -> float:
    """torchvision's dataset with ToTensor and Normalize for each item, a DataLoader, SGD and `loss.item()` a step."""
    per_item = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = datasets.MNIST(root, train=True, transform=per_item)
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers)
    network, criterion = make_network(), nn.CrossEntropyLoss()
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

    return rate(steps, seconds=seconds)


def rate(steps: Callable[[], Iterator[int]], *, seconds: float, warm_up: int = 10) -> float:
    """Images a second over `seconds`, or over what there is; starting up is not counted."""
    count, began = 0, math.nan
    for number, images in enumerate(steps()):
        if number == warm_up:
            count, began = 0, time.perf_counter()
        elif number > warm_up:
            count += images
            if time.perf_counter() - began > seconds:
                break
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="the folder above MNIST/raw")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the tutorial's DataLoader (default: %(default)s)")
    arguments = parser.parse_args()
    places = data_places(arguments.data_dir)
    raw = load_dataset("mnist", data_dir=places)
    root = next(place for place in places if (place / "MNIST/raw").is_dir())
    defaults = default_recipe("lenet", "mnist", images=len(raw.train), size=(28, 28), mode="L")
    recipe = defaults.override({"epochs": 1, "device": "cpu"})
    spec, data = prepare_splits(raw, size=(28, 28), fraction=recipe.validation_fraction, seed=0)
    small = recipe.override({"batch_size": 64})
    seconds, workers = arguments.seconds, arguments.workers
    loops: dict[str, Callable[[], float]] = {
        f"bare forward + backward + step, batch {recipe.batch_size}": lambda: bare(spec, data, recipe, seconds=seconds),
        f"convscope, batch {recipe.batch_size}": lambda: ours(spec, data, recipe),
        "bare forward + backward + step, batch 64": lambda: bare(spec, data, small, seconds=seconds),
        "convscope, batch 64": lambda: ours(spec, data, small),
        USUAL: lambda: tutorial(root, batch_size=64, workers=workers, seconds=seconds),
    }
    best = dict.fromkeys(loops, 0.0)
    for _ in range(arguments.rounds):  # in turn, and the best of each: other work on the machine hits some of them
        for name, measure in loops.items():
            best[name] = max(best[name], measure())
    table = Table(title=f"Training LeNet on MNIST, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    table.add_column("loop")
    table.add_column("images/s", justify="right")
    table.add_column("of the tutorial", justify="right")
    for name, figure in best.items():
        table.add_row(name, f"{figure:,.0f}", f"{figure / best[USUAL]:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
