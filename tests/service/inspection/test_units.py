"""Units of whole networks: every value that a file computes, and the walk from a logit back to the pixels."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import make_spec
from export.onnx_import.source import read_onnx
from export.pipeline.export import export_checkpoint
from export.predictor import Predictor
from models.graph.receptive_field import Box
from models.images.decode import Pixels
from service.errors import NotInspectable, UnknownLayer, UnknownUnit
from service.inspection.units import inspect_unit
from tests.conftest import make_checkpoint
from tests.export.onnx_import.onnx_models import CLASSES, export_torch


class Linear(nn.Module):
    """A network without nonlinearities: its logits are sums over all paths from the pixels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.linear = nn.Linear(2 * 4 * 2 * 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 8, 8) to (N, K)."""
        x = self.norm(self.conv(x))
        y = self.pool(x + self.depthwise(x))
        z = self.pool(x * 0.5)
        return self.linear(torch.cat([y, z], dim=1).flatten(1))


def image_for(predictor: Predictor) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, predictor.manifest.input.shape, dtype=np.uint8)


def exported(tmp_path: Path, model: str, size: int, channels: int = 3) -> Predictor:
    checkpoint = make_checkpoint(tmp_path / "run", model=model, size=size, channels=channels, count=12)
    return Predictor.open(export_checkpoint(checkpoint, out=tmp_path / "artifacts", formats=("onnx",)))


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("linear"), "tests.service.inspection.test_units:Linear", 8)


@pytest.fixture(scope="module")
def lenet(lenet_artifact):
    return Predictor.open(lenet_artifact)


def imported(tmp_path: Path) -> Predictor:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(4, 8, 3, groups=2), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, len(CLASSES)),
    ).eval()  # fmt: skip
    file = export_torch(network, tmp_path / "model.onnx", size=16, dynamo=True)
    spec = make_spec("RGB", (16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    return Predictor.open(import_model(read_onnx(file), classes=CLASSES, spec=spec, out=tmp_path / "imported"))


@pytest.mark.parametrize("name", ["lenet", "mobilenet_v3_small", "imported"])
def test_every_value_follows_from_its_terms(name, tmp_path, lenet):
    """Corners and random units of everything that has a name, inside layers too."""
    if name == "imported":
        predictor = imported(tmp_path)
    else:
        predictor = lenet if name == "lenet" else exported(tmp_path, name, 32)
    assert predictor.extractor is not None
    image, rng = image_for(predictor), np.random.default_rng(1)
    known = {"input", "image", "probabilities", *(node.name for node in predictor.manifest.nodes)}
    addresses = list(predictor.extractor.graph.values)
    assert known <= set(addresses)
    for address in rng.permutation(addresses)[:120]:
        with pytest.raises(UnknownUnit) as refused:
            inspect_unit(predictor, image, address, ())
        shape = tuple(
            int(size) for size in str(refused.value).partition("shape is (")[2].partition(")")[0].split(",") if size
        )
        for index in ((0,) * len(shape), tuple(size - 1 for size in shape), tuple(map(int, rng.integers(shape)))):
            unit = inspect_unit(predictor, image, address, index)
            assert unit.shape == shape
            assert unit.difference is not None, unit.operators
            assert abs(unit.difference) <= 1e-5 * max(unit.largest, 1), address


def test_served_values_are_those_of_the_trained_network(lenet, lenet_artifact):
    from export.verify.reference import rebuild
    from models.graph.trace import capture
    from models.images.normalize import Normalize

    image = image_for(lenet)
    network = rebuild(lenet_artifact, lenet.manifest).network
    x = Normalize(lenet.manifest.input)(torch.from_numpy(image[np.newaxis]))
    values = capture(network, x)
    for name, value in values.items():
        index = tuple(size // 2 for size in value.shape[1:])
        assert inspect_unit(lenet, image, name, index).served == pytest.approx(float(value[(0, *index)]), abs=1e-5)


def test_a_logit_is_the_sum_over_all_paths_to_the_pixels(linear):
    """Coefficients flow back from a logit through every term; on the pixels they give the logit again."""
    image = image_for(linear)
    last = linear.manifest.nodes[-1].name
    logit = inspect_unit(linear, image, last, (3,))
    coefficients: dict[tuple[str, tuple[int, ...]], float] = {(last, (3,)): 1.0}
    depth = {name: place for place, name in enumerate(_in_order(linear))}
    biases, pixels = 0.0, defaultdict(float)
    while coefficients:
        layer, index = max(coefficients, key=lambda unit: depth[unit[0]])  # the deepest first: all of its uses are in
        coefficient = coefficients.pop((layer, index))
        if layer == "image":
            pixels[index] += coefficient
            continue
        arithmetic = inspect_unit(linear, image, layer, index).arithmetic
        biases += coefficient * arithmetic.bias
        for terms in arithmetic.terms:
            for at in np.ndindex(terms.values.shape):
                if terms.padding is None or not terms.padding[at]:
                    place = tuple(axis[one] for axis, one in zip(terms.source.axes, at, strict=True))
                    key = (terms.source.value, place)
                    coefficients[key] = coefficients.get(key, 0.0) + coefficient * float(terms.weights[at])
    assert len(pixels) == image.size  # this network sees all of them
    assert sum(weight * image[index] for index, weight in pixels.items()) + biases == pytest.approx(
        logit.served, abs=1e-5
    )


def _in_order(predictor: Predictor) -> list[str]:
    graph = predictor.extractor.graph
    made = [value for operation in graph.operations for value in operation.outputs if value in graph.of_image]
    return ["image", *(graph.addresses[value] for value in made if value in graph.addresses)]


def test_the_normalization_is_a_sum_and_a_division_of_a_pixel(lenet):
    image, spec = image_for(lenet), lenet.manifest.input
    pixel = inspect_unit(lenet, image, "image", (5, 14, 0))
    centred = inspect_unit(lenet, image, "input:sub", (0, 5, 14)).arithmetic
    divided = inspect_unit(lenet, image, "input", (0, 5, 14)).arithmetic
    assert (centred.kind, centred.formula) == ("weighted_sum", "x + b")
    assert centred.bias == pytest.approx(-255 * spec.mean[0])
    assert centred.value == pytest.approx(pixel.served - 255 * spec.mean[0])
    assert divided.formula == "x / c"
    assert divided.details["c"] == pytest.approx(255 * spec.std[0])


def test_the_receptive_field_is_where_pixels_matter(lenet):
    """Changing a pixel outside of it leaves the unit as it was; pixels at its corners reach it."""
    image = image_for(lenet)
    unit = inspect_unit(lenet, image, "conv2", (3, 4, 7))
    assert unit.receptive_field is not None
    box = unit.receptive_field
    outside = 255 - image
    outside[box.top : box.bottom, box.left : box.right] = image[box.top : box.bottom, box.left : box.right]
    assert inspect_unit(lenet, outside, "conv2", (3, 4, 7)).served == unit.served
    inside = image.copy()
    inside[box.top, box.left] = 255 - inside[box.top, box.left]
    assert inspect_unit(lenet, inside, "conv2", (3, 4, 7)).served != unit.served


def test_the_receptive_field_of_a_unit_at_the_border_is_clipped(lenet):
    unit = inspect_unit(lenet, image_for(lenet), "conv1", (0, 0, 27))
    assert (unit.receptive_field, unit.clipped) == (Box(-2, 25, 3, 30), Box(0, 25, 3, 28))
    (terms,) = unit.arithmetic.terms
    assert terms.padding is not None
    assert terms.padding.sum() == 25 - 9


def test_layers_that_follow_on_single_elements_are_listed(lenet):
    image = image_for(lenet)
    (relu,) = inspect_unit(lenet, image, "conv1", (2, 9, 9)).following
    assert (relu.layer, relu.op) == ("relu", "Relu")
    assert relu.value == inspect_unit(lenet, image, "relu", (2, 9, 9)).served


def test_unknown_layers_and_positions_are_refused(lenet):
    image = image_for(lenet)
    with pytest.raises(UnknownLayer, match="near are conv"):
        inspect_unit(lenet, image, "conv3", (0, 0, 0))
    for index in ((6, 0, 0), (0, 28, 0), (0, 0), (0,), (0, 0, 0, 0), (0, -1, 0)):
        with pytest.raises(UnknownUnit, match=r"0 to 5, 0 to 27, 0 to 27"):
            inspect_unit(lenet, image, "conv1", index)


def test_an_artifact_without_onnx_is_refused(lenet_checkpoint, tmp_path):
    artifact = export_checkpoint(lenet_checkpoint, out=tmp_path, formats=("torchscript",))
    predictor = Predictor.open(artifact)
    with pytest.raises(NotInspectable, match=r"without model\.onnx"):
        inspect_unit(predictor, image_for(predictor), "conv1", (0, 0, 0))
