"""What `convscope evaluate` brings together: a classifier, be it a checkpoint or an artifact, and a test set for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact import newest_version, read_manifest
from export.engine import Run
from export.engines import open_engine
from export.pipeline import ExportData, reference
from export.reduced import CALIBRATION_IMAGES
from models.checkpoint import load_checkpoint
from models.inputs import InputSpec
from training.datasets import data_places, load_dataset
from training.raw import RawDataset
from training.tensors import Images, prepare


@dataclass(frozen=True)
class Classifier:
    """What is evaluated: `run` returns probabilities and logits, the logits before the temperature."""

    what: str
    run: Run
    spec: InputSpec
    classes: tuple[str, ...]
    temperature: float
    trained_on: Mapping[str, Any]  # name and SHA-256 of the data


def open_classifier(subject: Path) -> Classifier:
    """Opens a checkpoint directory in PyTorch, or an artifact with its engine.

    Raises:
        ValueError: neither, or damaged.
    """
    if (subject / "config.json").is_file():
        checkpoint = load_checkpoint(subject)
        config = checkpoint.config
        run, what = reference(checkpoint), f"{subject} (PyTorch)"
        return Classifier(what, run, config.input, config.classes, config.temperature, config.dataset)
    directory = newest_version(subject)
    manifest = read_manifest(directory)
    engine = open_engine(directory, manifest)
    what = f"{directory / engine.file} ({engine.name}, {engine.device})"
    return Classifier(what, engine.run, manifest.input, manifest.classes, manifest.temperature, manifest.dataset)


def load_test(data: str, *, data_dir: Path | None, spec: InputSpec, classes: tuple[str, ...]) -> Images:
    """Loads the test split, decoded and resized as `spec` says.

    Raises:
        ValueError: no such data, or its classes are not the network's.
    """
    return prepare(_load(data, data_dir, classes).test, spec)


def load_unseen(judged: Classifier, data: str, *, data_dir: Path | None, skip_bad: bool) -> tuple[Images, str]:
    """Loads the test split for a classifier; and says what is doubtful about its images, nothing if all is well.

    Raises:
        ValueError: see `load_test`.
    """
    raw = _load(data, data_dir, judged.classes, skip_bad=skip_bad)
    doubt = ""
    if raw.name == judged.trained_on.get("name") and raw.sha256 != judged.trained_on.get("sha256"):
        doubt = f"{data} has changed since the training, so images that it learnt from may be among these"
    return prepare(raw.test, judged.spec), doubt


def load_export_data(data: str, *, data_dir: Path | None, spec: InputSpec, classes: tuple[str, ...]) -> ExportData:
    """Loads the test split, and training images to calibrate int8 on: a seeded draw.

    Raises:
        ValueError: no such data, or its classes are not the network's.
    """
    raw = _load(data, data_dir, classes)
    count = min(CALIBRATION_IMAGES, len(raw.train))
    drawn = np.sort(np.random.default_rng(0).choice(len(raw.train), count, replace=False))
    some = raw.train.take(drawn)
    return ExportData(prepare(raw.test, spec), prepare(some, spec).images.numpy())


def _load(data: str, data_dir: Path | None, classes: tuple[str, ...], *, skip_bad: bool = False) -> RawDataset:
    raw = load_dataset(data, data_dir=data_places(data_dir), skip_bad=skip_bad)
    if tuple(raw.classes) != classes:
        raise ValueError(f"{data} has the classes {', '.join(raw.classes)}; the network has {', '.join(classes)}")
    return raw
