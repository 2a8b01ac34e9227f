"""Small artifacts to explain, and one image for each."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from export.pipeline.export import export_checkpoint
from export.predictor import Predictor
from models.images.decode import Pixels
from tests.conftest import digit_images, make_checkpoint


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Predictor]:
    """Opens a small network of the registry or of `networks.py`, exported once as `model.onnx`; only to be read."""

    @cache
    def make(model: str, size: int, channels: int, *, classes: int = 10, hidden: tuple[int, ...] = ()) -> Predictor:
        folder = tmp_path_factory.mktemp("explained")
        changes: dict[str, Any] = {"options": {"hidden": hidden}} if hidden else {}
        checkpoint = make_checkpoint(
            folder / "network", model=model, size=size, channels=channels, classes=classes, count=9, **changes
        )
        return Predictor.open(export_checkpoint(checkpoint, out=folder / "artifacts", formats=("onnx",)))

    return make


@pytest.fixture(scope="session")
def pixels_of() -> Callable[..., Pixels]:
    """An image as a network takes it."""

    def decode(model: Predictor, index: int = 2) -> Pixels:
        return model.decode(digit_images(model.manifest.input.channels, index + 1)[index])

    return decode
