"""Data for export, verify and evaluate, and the checkpoint or artifact to evaluate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact.manifest import Manifest
from export.engines.protocol import Run
from export.pipeline.export import ExportData
from export.predictor import Predictor
from export.verify.reference import reference
from export.writers.onnx_int8 import CALIBRATION_IMAGES
from models.checkpoint.directory import CheckpointConfig, load_checkpoint
from models.checkpoint.names import CONFIG_FILE
from models.errors import UserError
from training.data.datasets import load_dataset
from training.data.folder import instead_of
from training.data.in_memory import load_into_memory
from training.data.options import SOURCE_DEFAULTS, DataOptions, SourceOptions
from training.data.raw import LabeledImages, RawDataset
from training.data.splits import open_dataset
from training.data.streaming import Dataset

Network = CheckpointConfig | Manifest  # both have its input, its classes and its training data set


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate: `run` returns probabilities and logits, the latter before temperature scaling."""

    title: str
    run: Run
    network: Network


def open_model(subject: Path) -> EvaluatedModel:
    """Opens a checkpoint directory in PyTorch, or an artifact with its engine.

    Raises:
        ValueError: neither of these, or damaged.
    """
    if (subject / CONFIG_FILE).is_file():
        checkpoint = load_checkpoint(subject)
        return EvaluatedModel(f"{subject} (PyTorch)", reference(checkpoint), checkpoint.config)
    model = Predictor.open(subject)
    title = f"{model.directory / model.engine.file} ({model.engine.name}, {model.engine.device})"
    return EvaluatedModel(title, model.run, model.manifest)


@dataclass(frozen=True)
class EvaluationData:
    """Images of one split, labelled with the network's classes.

    Attributes:
        remarks: for the user.
        sha256: of the whole data set.
        names: paths of the files in the folder, such as `test/cat/3.jpg`; empty if the data set has no files.
    """

    images: Dataset
    remarks: tuple[str, ...]
    sha256: str
    names: tuple[str, ...]


def load_test(
    data: str,
    network: Network,
    options: SourceOptions = SOURCE_DEFAULTS,
    *,
    skip_bad: bool = False,
    most: int | None = None,
) -> EvaluationData:
    """Loads the test split at the network's input size. It may have fewer classes than the network.

    A folder without splits that has neither the name nor the content of the training data is a test split as a whole.
    Damaged files are left out if the training also left some out.

    Args:
        most: load no more than so many images, evenly spaced.

    Raises:
        ValueError: no such data, or a class in it that the network lacks or has twice.
    """
    raw = _load(data, network, options, skip_bad=skip_bad, test_only=True)
    split, remarks = _test_split(raw, data, network.dataset)
    if not len(split):
        raise UserError(f"{data} has no test images{' left' if raw.unsplit else ''}")
    return _labelled(split, raw, data, network, options, remarks, most)


def load_train(
    data: str, network: Network, options: SourceOptions = SOURCE_DEFAULTS, *, most: int | None = None
) -> EvaluationData:
    """Loads the training split likewise.

    Raises:
        ValueError: as for `load_test`.
    """
    raw = _load(data, network, options)
    changed = raw.sha256 != network.dataset.get("sha256")
    remarks = [f"{data} is not, or no longer, what the network was trained on"] if changed else []
    return _labelled(raw.train, raw, data, network, options, remarks, most)


def _labelled(
    split: LabeledImages,
    raw: RawDataset,
    data: str,
    network: Network,
    options: SourceOptions,
    remarks: list[str],
    most: int | None,
) -> EvaluationData:
    """A split with the network's labels in place of the data set's."""
    classes = network.classes
    if most is not None and most < len(split):
        split = split.take(np.linspace(0, len(split) - 1, most).astype(np.int64))
    there = [raw.classes[label] for label in np.unique(split.labels)]
    if unknown := [name for name in there if name not in classes]:
        instead = instead_of(Path(data)) if len(unknown) == len(there) else ""
        raise UserError(f"{data} has the classes {', '.join(unknown)}; the network has {', '.join(classes)}{instead}")
    if several := [name for name in there if classes.count(name) > 1]:
        raise UserError(f"the network has two classes called {several[0]!r}, so {data} leaves it open which is right")
    if len(there) < len(classes):
        remarks.append(f"{data} has {len(there)} of the network's {len(classes)} classes")
    index = np.array([classes.index(name) if name in there else -1 for name in raw.classes])
    split = LabeledImages(split.images, index[split.labels])
    names, images = raw.files_of(split), open_dataset(split, network.input, options)
    return EvaluationData(images, tuple(remarks), raw.sha256, names)


def _test_split(raw: RawDataset, data: str, trained_on: Mapping[str, Any]) -> tuple[LabeledImages, list[str]]:
    """The test images, with remarks on any doubts about them."""
    if raw.sha256 == trained_on.get("sha256"):
        return raw.test, []
    remarks = []
    if raw.test_folder:
        fitted = "; if the network had it beside its training images, its temperature was fitted on them"
        known = fitted if "test_folder" not in trained_on else ""
        remarks.append(f"there is no test/ in {data}: {raw.test_folder}/ is measured on{known}")
    if raw.name == trained_on.get("name"):
        how = "edited, or if their class has few" if raw.unsplit else "moved or copied to the test split"
        changed = f"{data} has changed since the training"
        return raw.test, [*remarks, f"{changed}: training images may be among these if they were {how}"]
    if raw.unsplit:
        doubt = "training images may be among them"
        return raw.whole, [f"{data} is not what the network was trained on and is taken as a whole; {doubt}"]
    return raw.test, remarks


def load_export_data(data: str, network: Network, options: SourceOptions = SOURCE_DEFAULTS) -> ExportData:
    """Loads the test split, and a seeded sample of training images for int8 calibration.

    Raises:
        ValueError: no such data, no training images, or classes other than the network's.
    """
    raw = _load(data, network, options)
    if raw.classes != network.classes:
        raise UserError(
            f"{data} has the classes {', '.join(raw.classes)}; the network has {', '.join(network.classes)}"
            f"{'' if set(raw.classes) & set(network.classes) else instead_of(Path(data))}"
        )
    count = min(CALIBRATION_IMAGES, len(raw.train))
    drawn = np.sort(np.random.default_rng(0).choice(len(raw.train), count, replace=False))
    calibration = load_into_memory(
        raw.train.take(drawn), network.input, limit_pixels=options.image_limit_pixels
    ).images.numpy()
    split, remarks = (raw.test, []) if raw.unsplit else _test_split(raw, data, network.dataset)
    return ExportData(open_dataset(split, network.input, options), calibration, tuple(remarks))


def _load(
    data: str, network: Network, options: SourceOptions, *, skip_bad: bool = False, test_only: bool = False
) -> RawDataset:
    """Loads a data set, without its damaged files if the training left some out."""
    skip_bad = skip_bad or "left_out" in network.dataset
    return load_dataset(data, DataOptions(**{**vars(options), "skip_bad": skip_bad}), test_only=test_only)
