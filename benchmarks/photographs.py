"""Photographs of 640x480 streamed to a training at 224: with our decoding, with Pillow alone, and the usual way.

    python -m benchmarks.photographs

The files are crops of scikit-learn's two photographs as JPEGs of quality 90. "Pillow alone" is our code without its
fast path, so both give the same pixels. The usual way is ImageFolder with Resize, CenterCrop and ToTensor in torch's
DataLoader with the same number of workers. Loops take turns, and medians are shown.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import cyclopts
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.training import rate
from models.images import decode
from models.images.decode import decode_image
from models.images.input_spec import InputSpec
from models.networks.registry import build_network
from training.data.streaming import StreamingDataset, sequential_batches
from training.loop.learner import make_learner, train_step, training_forward
from training.recipes.defaults import default_recipe

SIZE, RESIZED = 224, 256
BATCH = 64
Step = Callable[[torch.Tensor, torch.Tensor], object]


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Crops of 640x480 in two class folders."""
    sources, generator, paths = load_sample_images().images, np.random.default_rng(0), []
    for number in range(count):
        photograph = Image.fromarray(sources[number % 2])
        width = int(generator.integers(320, 561))
        left, top = (int(generator.integers(0, most)) for most in (641 - width, 428 - width * 3 // 4 - 1))
        crop = photograph.resize((640, 480), Image.Resampling.BICUBIC, (left, top, left + width, top + width * 3 // 4))
        path = folder / ("china" if number % 2 == 0 else "flower") / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        crop.save(path, quality=90)
        paths.append(path)
    return paths


@contextmanager
def _pillow_alone() -> Iterator[None]:
    """Turns the fast path off, in this process and those that it forks."""
    fast = decode.decode_plain
    decode.decode_plain = lambda data, spec, limit_pixels: None
    try:
        yield
    finally:
        decode.decode_plain = fast


def _decoded(paths: list[Path], spec: InputSpec) -> float:
    """Images/s of `decode_image` on one core, with the files in memory."""
    files = [path.read_bytes() for path in paths[:200]]
    began = time.perf_counter()
    for data in files:
        decode_image(data, spec)
    return len(files) / (time.perf_counter() - began)


def _rate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], step: Step) -> float:
    def steps() -> Iterator[int]:
        for images, labels in batches:
            step(images, labels)
            yield len(images)

    return rate(steps(), seconds=math.inf)


def _streamed(data: StreamingDataset, step: Step) -> float:
    batches = data.batches(sequential_batches(len(data), BATCH))
    return _rate(((batch.images, batch.labels) for batch in batches), step)


def _usual(folder: Path, workers: int, step: Step) -> float:
    steps = (transforms.Resize(RESIZED), transforms.CenterCrop(SIZE), transforms.ToTensor())
    images = datasets.ImageFolder(str(folder), transform=transforms.Compose(steps))
    return _rate(DataLoader(images, batch_size=BATCH, num_workers=workers), step)


def main(*, count: int = 1280, rounds: int = 3, workers: int = 2, model: str = "simple_cnn") -> None:
    """Prints images/s.

    Args:
        count: photographs.
        rounds: number of turns; medians are shown.
        workers: processes that decode.
        model: the network trained at 224.
    """
    half = (0.5,) * 3
    native = InputSpec(mode="RGB", height=480, width=640, resize=(480, 640), background=(255,) * 3, mean=half, std=half)
    spec = replace(native, height=SIZE, width=SIZE, resize=RESIZED, crop=(SIZE, SIZE))
    recipe = default_recipe(model, "photographs", images=count, size=(SIZE, SIZE), mode="RGB")
    recipe = recipe.override({"device": "cpu", "batch_size": BATCH})
    rates: dict[str, dict[str, list[float]]] = {}

    def note(row: str, column: str, rate: float) -> None:
        rates.setdefault(row, {}).setdefault(column, []).append(rate)
        print(f"{row}, {column}: {rate:,.0f} images/s", flush=True)

    def make_step() -> Step:
        network = build_network(model, channels=3, height=SIZE, width=SIZE, classes=2)
        learner = make_learner(network, spec, recipe, steps=10**6)
        learner.forward = training_forward(network, spec, recipe)
        network.train()
        return partial(train_step, learner)

    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), count)
        labels = torch.arange(count) % 2
        for _ in range(rounds):
            for column, way in {"convscope": nullcontext(), "Pillow alone": _pillow_alone()}.items():
                with way:
                    note("decode_image at 640x480, one core", column, _decoded(paths, native))
                    note("decode_image to 224, one core", column, _decoded(paths, spec))
                    data = StreamingDataset(paths, labels, spec, workers)
                    note(f"streamed by {workers} workers", column, _streamed(data, lambda images, labels: None))
                    data = StreamingDataset(paths, labels, spec, workers)
                    note(f"streamed and trained, {model}", column, _streamed(data, make_step()))
            nothing = _usual(Path(folder), workers, lambda images, labels: None)
            note(f"streamed by {workers} workers", "the usual way", nothing)
    table = Table("", "convscope", "Pillow alone", "gain", "the usual way", "gain", title="images/s")
    for row, columns in rates.items():
        ours, pillow, usual = (
            statistics.median(columns[name]) if name in columns else math.nan
            for name in ("convscope", "Pillow alone", "the usual way")
        )
        last = ("", "") if math.isnan(usual) else (f"{usual:,.0f}", f"{ours / usual:.2f}x")
        table.add_row(row, f"{ours:,.0f}", f"{pillow:,.0f}", f"{ours / pillow:.2f}x", *last)
    Console().print(table)


if __name__ == "__main__":
    cyclopts.run(main)
