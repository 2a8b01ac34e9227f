"""Models of several kinds in one folder of artifacts: sizes, classes, colours, origins and files differ."""

import shutil
from pathlib import Path

import torchvision
from torch import nn

from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import make_spec
from export.onnx_import.source import read_onnx
from export.pipeline.export import export_checkpoint
from tests.conftest import make_checkpoint
from tests.export.onnx_import.onnx_models import CLASSES, small

THOUSAND = 1000
NETWORKS = {  # by the artifact's name: the checkpoint's fields
    "stripes": {"model": "stripes_conv2_relu", "size": 8, "classes": 2},
    "thousand": {"model": "simple_cnn", "size": 8, "channels": 3, "classes": THOUSAND},
    "vit": {"model": f"{__name__}:tiny_vit", "size": 16, "channels": 3, "classes": 4},
}


def tiny_vit(*, height: int, classes: int) -> nn.Module:
    """torchvision's ViT with one block: a class token and patches of 4x4 pixels."""
    return torchvision.models.VisionTransformer(
        image_size=height, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=classes
    )


def build_zoo(folder: Path, lenet_artifact: Path) -> Path:
    """Exports `NETWORKS`, a second LeNet, one without model.onnx, and an imported model."""
    root = folder / "artifacts"
    shutil.copytree(lenet_artifact.parent, root / "lenet")
    second = make_checkpoint(folder / "second", seed=1, count=9)
    export_checkpoint(second, out=root, name="lenet", formats=("onnx",))
    export_checkpoint(second, out=root, name="script", formats=("torchscript",))
    for name, fields in NETWORKS.items():
        export_checkpoint(make_checkpoint(folder / name, count=9, **fields), out=root, name=name, formats=("onnx",))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    spec = make_spec("RGB", (16, 16), mean=mean, std=std)
    import_model(read_onnx(small(folder / "net.onnx")), classes=CLASSES, spec=spec, out=root, name="imported")
    return root
