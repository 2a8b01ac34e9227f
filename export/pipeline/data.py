"""What `convscope evaluate` brings together: a classifier, be it a checkpoint or an artifact, and a test set for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact.directory import newest_version
from export.artifact.manifest import Manifest, read_manifest
from export.engines.protocol import Run
from export.engines.selection import open_engine
from export.pipeline.export import ExportData
from export.verify.reference import reference
from export.writers.precision import CALIBRATION_IMAGES
from models.checkpoint.directory import CheckpointConfig, load_checkpoint
from training.data.datasets import data_directories, load_dataset
from training.data.in_memory import prepare
from training.data.raw import LabeledImages, RawDataset
from training.data.splits import MEMORY_LIMIT_MB, open_dataset
from training.data.streaming import Source

Network = CheckpointConfig | Manifest  # both know its input, its classes and what it was trained on


@dataclass(frozen=True)
class Classifier:
    """What is evaluated: `run` returns probabilities and logits, the logits before the temperature."""

    what: str
    run: Run
    network: Network


def open_classifier(subject: Path) -> Classifier:
    """Opens a checkpoint directory in PyTorch, or an artifact with its engine.

    Raises:
        ValueError: neither, or damaged.
    """
    if (subject / "config.json").is_file():
        checkpoint = load_checkpoint(subject)
        return Classifier(f"{subject} (PyTorch)", reference(checkpoint), checkpoint.config)
    directory = newest_version(subject)
    manifest = read_manifest(directory)
    engine = open_engine(directory, manifest)
    what = f"{directory / engine.file} ({engine.name}, {engine.device})"
    return Classifier(what, engine.run, manifest)


@dataclass(frozen=True)
class EvaluationData:
    """Test images, labelled with the network's classes; and in words what is to be known about them."""

    images: Source
    remarks: tuple[str, ...]


def load_test(
    data: str,
    network: Network,
    *,
    data_dir: Path | None,
    skip_bad: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
) -> EvaluationData:
    """Loads the test split, decoded and resized as a network wants it. It need not have all of the network's classes.

    A flat folder that has neither the name nor the content of what was trained on is a test split as a whole. Damaged
    files are left out if the training left some out, too.

    Raises:
        ValueError: no such data, or it has a class that the network does not have, or has twice.
    """
    classes = network.classes
    raw = _load(data, network, data_dir=data_dir, skip_bad=skip_bad, test_only=True)
    split, remarks = _taken(raw, data, network.dataset)
    if not len(split):
        raise ValueError(f"{data} has no test images{' left' if raw.flat else ''}")
    there = [raw.classes[label] for label in np.unique(split.labels)]
    if unknown := [name for name in there if name not in classes]:
        raise ValueError(f"{data} has the classes {', '.join(unknown)}; the network has {', '.join(classes)}")
    if several := [name for name in there if classes.count(name) > 1]:
        raise ValueError(f"the network has two classes called {several[0]!r}, so {data} does not say which is right")
    if len(there) < len(classes):
        remarks.append(f"{data} has {len(there)} of the network's {len(classes)} classes")
    index = np.array([classes.index(name) if name in there else -1 for name in raw.classes])
    split = LabeledImages(split.images, index[split.labels])
    return EvaluationData(
        open_dataset(split, network.input, memory_limit_mb=memory_limit_mb, workers=workers), tuple(remarks)
    )


def _taken(raw: RawDataset, data: str, trained_on: Mapping[str, Any]) -> tuple[LabeledImages, list[str]]:
    """The test images; and why they are all there are, or what is doubtful about them."""
    if raw.sha256 == trained_on.get("sha256"):
        return raw.test, []
    remarks = []
    if raw.test_folder:
        fitted = "; if the network had it beside its training images, its temperature was fitted on them"
        known = fitted if "test_folder" not in trained_on else ""
        remarks.append(f"there is no test/ in {data}: {raw.test_folder}/ is measured on{known}")
    if raw.name == trained_on.get("name"):
        how = "edited, or if their class has few" if raw.flat else "moved or copied to the test split"
        changed = f"{data} has changed since the training"
        return raw.test, [*remarks, f"{changed}: images that it learnt from may be among these if they were {how}"]
    if raw.flat:
        learnt = "images that were learnt from may be among them"
        return raw.whole, [f"{data} is not what the network was trained on and is taken as a whole; {learnt}"]
    return raw.test, remarks


def load_export_data(
    data: str,
    network: Network,
    *,
    data_dir: Path | None,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
) -> ExportData:
    """Loads the test split, and training images to calibrate int8 on: a seeded draw.

    Raises:
        ValueError: no such data, no training images, or its classes are not the network's.
    """
    raw = _load(data, network, data_dir=data_dir)
    if raw.classes != network.classes:
        raise ValueError(
            f"{data} has the classes {', '.join(raw.classes)}; the network has {', '.join(network.classes)}"
        )
    count = min(CALIBRATION_IMAGES, len(raw.train))
    drawn = np.sort(np.random.default_rng(0).choice(len(raw.train), count, replace=False))
    calibration = prepare(raw.train.take(drawn), network.input).images.numpy()
    split, remarks = (raw.test, []) if raw.flat else _taken(raw, data, network.dataset)
    test = open_dataset(split, network.input, memory_limit_mb=memory_limit_mb, workers=workers)
    return ExportData(test, calibration, tuple(remarks))


def _load(
    data: str, network: Network, *, data_dir: Path | None, skip_bad: bool = False, test_only: bool = False
) -> RawDataset:
    """The data set, without what the training left out, if it did."""
    skip_bad = skip_bad or "left_out" in network.dataset
    return load_dataset(data, data_dir=data_directories(data_dir), skip_bad=skip_bad, test_only=test_only)
