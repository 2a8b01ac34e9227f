"""The test set of a data set, as a given network takes it."""

from pathlib import Path

from models.inputs import InputSpec
from training.datasets import data_places, load_dataset
from training.tensors import Images, prepare


def load_test(data: str, *, data_dir: Path | None, spec: InputSpec, classes: tuple[str, ...]) -> Images:
    """Loads the test split, decoded and resized as `spec` says.

    Raises:
        ValueError: no such data, or its classes are not the network's.
    """
    raw = load_dataset(data, data_dir=data_places(data_dir))
    if tuple(raw.classes) != classes:
        raise ValueError(f"{data} has the classes {', '.join(raw.classes)}; the network has {', '.join(classes)}")
    return prepare(raw.test, spec)
