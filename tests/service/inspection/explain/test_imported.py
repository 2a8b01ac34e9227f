"""Imported files have no weights to rebuild a network from, but can be explained without gradients."""

import numpy as np
import pytest

from export.onnx_import.importer import import_model
from export.onnx_import.source import read_onnx
from export.predictor import Predictor
from service.errors import NotInspectable
from service.inspection.explain.explanation import Explainer
from service.inspection.explain.methods import METHODS
from tests.conftest import make_spec
from tests.export.onnx_import.onnx_models import small


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    file = read_onnx(small(folder / "net.onnx"))
    spec = make_spec(16, 3)
    path = import_model(file, classes=tuple(map(str, range(10))), spec=spec, out=folder / "artifacts")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    return Explainer(Predictor.open(path), image)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_methods_without_gradients_work_and_the_others_are_refused(explainer, method):
    if method.gradients:
        with pytest.raises(NotInspectable, match=r"has no weights.safetensors to rebuild the network from; methods"):
            explainer.explain(method, 1)
    else:
        assert np.isfinite(explainer.explain(method, 1, evaluate=True).values).all()


def test_masks_show_the_mean_colour_after_the_normalisation(explainer):
    assert not explainer.served.baseline.any()
    assert explainer.served.pixels.start.dtype == np.float32
    assert explainer.default_method().name == "cam"
