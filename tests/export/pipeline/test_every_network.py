"""Every network that can be named goes the whole way: checkpoint, both files, and their verification."""

from pathlib import Path

import pytest

from export.artifact.manifest import ONNX_FILE, TORCHSCRIPT_FILE
from export.pipeline.export import export_checkpoint
from export.verify.verification import verify_artifact
from models.networks.registry import NETWORKS
from tests.conftest import EXPORTED, make_checkpoint

LEFT = sorted(set(NETWORKS) - {str(fields.get("model", name)) for name, fields in EXPORTED.items()})
TORCHVISION = {  # at sizes that are quick; deep ones of other families need trained weights to be compared to 1e-5
    "alexnet": 64, "convnext_tiny": 64, "densenet121": 32, "efficientnet_b0": 64, "googlenet": 64, "mnasnet0_5": 64,
    "mobilenet_v3_small": 64, "resnext50_32x4d": 64, "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64,
    "torchvision:resnet18": 64, "torchvision:vgg11": 64, "vit_b_16": 64,
}  # fmt: skip


def goes_the_whole_way(tmp_path: Path, name: str, size: int, channels: int, classes: int) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", model=name, size=size, channels=channels, classes=classes, count=9
    )
    artifact = export_checkpoint(checkpoint, out=tmp_path / "artifacts")
    assert {ONNX_FILE, TORCHSCRIPT_FILE} == {report.file for report in verify_artifact(artifact).files}


@pytest.mark.acceptance
@pytest.mark.parametrize("name", LEFT)
def test_every_registered_network_that_the_quick_tests_leave_out(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name].sizes[0]
    goes_the_whole_way(tmp_path, name, size, channels=1 if size == 8 else 3, classes=2 if size == 8 else 5)


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "size"), TORCHVISION.items())
def test_every_family_of_torchvision(name: str, size: int, tmp_path: Path) -> None:
    goes_the_whole_way(tmp_path, name, size, channels=3, classes=5)
