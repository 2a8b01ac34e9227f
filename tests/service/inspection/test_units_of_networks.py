"""Units of whole trained networks: 200 of every kind of node, borders among them."""

import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import convscope
from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import make_spec
from export.onnx_import.source import read_onnx
from export.pipeline.export import export_checkpoint
from export.predictor import Predictor
from export.verify.limits import Limits
from models.images.decode import Pixels
from service.inspection.units import UnitInspector
from tests.conftest import make_checkpoint
from tests.export.onnx_import.onnx_models import CLASSES, export_torch, torchvision_model

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]
PER_KIND, TOLERANCE = 200, 1e-4
TRAINED = {
    "lenet": ("mnist", {"epochs": 2}),
    "resnet20": ("cifar10-jpeg", {"epochs": 1}),
    "se_resnet20": ("cifar10-jpeg", {"epochs": 1}),
    "skip_cnn": ("cifar10-jpeg", {"epochs": 1}),
}
SIZES = {"resnet18": 224, "mobilenet_v2": 224, "efficientnet_b0": 224, "convnext_tiny": 224, "vit_b_16": 224}


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as JPEG files in class folders."""
    archive = shared_data / "cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "cifar10-jpeg"


def trained(name: str, folder: Path, shared_data: Path, photographs: Path) -> Predictor:
    data, recipe = TRAINED[name]
    source = str(photographs) if data == "cifar10-jpeg" else data
    run = convscope.train(name, source, out=folder / "run", data_dir=shared_data, **recipe)
    return Predictor.open(export_checkpoint(run.directory, out=folder / "artifacts", formats=("onnx",)))


def with_scaled_weights(name: str, folder: Path) -> Predictor:
    """Random weights scaled so that values neither vanish nor explode; no data set here has such images."""
    run = make_checkpoint(folder / "run", model=name, size=SIZES[name], channels=3, count=8)
    limits = Limits(difference=1e-3)
    return Predictor.open(export_checkpoint(run, out=folder / "artifacts", formats=("onnx",), limits=limits))


def imported(folder: Path) -> Predictor:
    file = export_torch(torchvision_model("mobilenet_v3_small"), folder / "model.onnx", size=64, dynamo=False)
    spec = make_spec("RGB", (64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Predictor.open(import_model(read_onnx(file), classes=CLASSES, spec=spec, out=folder / "artifacts"))


def picture(predictor: Predictor) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, predictor.manifest.input.shape, dtype=np.uint8)


@pytest.mark.parametrize("name", [*TRAINED, *SIZES, "imported"])
def test_the_arithmetic_gives_the_served_values(name, tmp_path, shared_data, photographs):
    if name == "imported":
        predictor = imported(tmp_path)
    else:
        predictor = (
            trained(name, tmp_path, shared_data, photographs)
            if name in TRAINED
            else with_scaled_weights(name, tmp_path)
        )
    inspector, rng = UnitInspector(predictor, picture(predictor)), np.random.default_rng(1)
    shapes = inspector.compute(inspector.layers)
    kinds = defaultdict(list)
    for layer in inspector.layers:
        unit = inspector.unit(layer, (0,) * len(shapes[layer]))
        kinds[unit.operators[:1]].append(layer)
    for kind, layers in kinds.items():
        for number in range(PER_KIND):
            layer = layers[number % len(layers)]
            edge = rng.integers(0, 3, len(shapes[layer]))  # the first, the last, or any
            index = tuple(
                0 if where == 0 else size - 1 if where == 1 else int(rng.integers(size))
                for where, size in zip(edge, shapes[layer], strict=True)
            )
            unit = inspector.unit(layer, index)
            assert unit.difference is not None, (kind, layer)
            assert abs(unit.difference) <= TOLERANCE * unit.largest, (kind, layer, index)
