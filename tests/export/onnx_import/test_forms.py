"""Layouts, channel orders, kinds of scores and frozen batches of files from elsewhere, compared with the original."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from export.artifact.manifest import Manifest, read_manifest
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.engines.openvino import openvino_unavailable_reason
from export.engines.selection import open_engine
from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import make_spec
from export.onnx_import.source import read_onnx
from export.verify.verification import verify_artifact
from export.writers.triton import TritonError, write_triton
from tests.export.onnx_import.onnx_models import CLASSES, export_torch, small

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
AS_THEY_ARE = {"mean": (0.0,), "std": (1 / 255,)}


def photographs(count: int = 6) -> np.ndarray:
    """uint8 (count, 16, 16, 3)."""
    whole = Image.fromarray(load_sample_image("flower.jpg"))
    boxes = [(40 * i, 30 * i, 40 * i + 200, 30 * i + 200) for i in range(count)]
    return np.stack([np.asarray(whole.resize((16, 16), box=box)) for box in boxes])


def original(path: Path, *, bgr: bool = False, last: bool = False, plain: bool = False, dtype=np.float32) -> np.ndarray:
    """What the author's own code would give, an image at a time, (N, K)."""
    images = photographs().astype(np.float64)
    x = images if plain else (images / 255 - MEAN) / STD
    x = x[..., ::-1] if bgr else x
    x = (x if last else x.transpose(0, 3, 1, 2)).astype(dtype)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = [session.run(None, {"x": x[i : i + 1]})[0].reshape(1, -1) for i in range(len(x))]
    return np.concatenate(found).astype(np.float32)


def imported(path: Path, *, classes=CLASSES, mean=tuple(MEAN), std=tuple(STD), **fields) -> tuple[Path, Manifest]:
    spec = make_spec("RGB", (16, 16), mean=mean, std=std)
    artifact = import_model(read_onnx(path), classes=classes, spec=spec, out=path.parent / "artifacts", **fields)
    verify_artifact(artifact)
    return artifact, read_manifest(artifact)


def served(artifact: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    return open_engine(artifact, manifest, device="cpu").run(photographs())


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


def reshape(*sizes: int) -> dict:
    node = helper.make_node("Reshape", ["scores", "sizes"], ["y"], "reshape")
    return {"end": [node], "more": {"sizes": np.array(sizes)}, "output_sizes": len(sizes)}


@pytest.mark.parametrize("sizes", [(-1, 10, 1, 1), (-1, 10, 1), (-1, 1, 1, 10), (10,)])
def test_scores_with_axes_of_length_one_are_flattened(sizes: tuple[int, ...], tmp_path: Path) -> None:
    image = (1, 3, 16, 16) if len(sizes) == 1 else ("n", 3, 16, 16)
    path = small(tmp_path / "net.onnx", image=image, **reshape(*sizes))
    probabilities, logits = served(*imported(path))
    np.testing.assert_allclose(logits, original(path), atol=1e-5)
    np.testing.assert_allclose(probabilities, softmax(original(path)), atol=1e-6)


@pytest.mark.parametrize("behind", ["Flatten", "Squeeze", "Dropout"])
def test_a_softmax_is_found_behind_operations_that_keep_its_scores(behind: str, tmp_path: Path) -> None:
    end = [helper.make_node("Softmax", ["scores"], ["p"], axis=1), helper.make_node(behind, ["p"], ["y"])]
    path = small(tmp_path / "net.onnx", end=end)
    artifact, manifest = imported(path)
    assert manifest.options["gives"] == "probabilities"
    np.testing.assert_allclose(served(artifact, manifest)[0], original(path), atol=1e-6)


TO_NCHW = helper.make_node("Transpose", ["x"], ["nchw"], "transpose", perm=[0, 3, 1, 2])


def channels_last(path: Path, **fields) -> Path:
    """A network that takes (N, H, W, C) and transposes it first, as converters from TensorFlow write them."""
    small(path, name="nchw", **fields)
    model = onnx.load(path)
    model.graph.node.insert(0, TO_NCHW)
    given = model.graph.input[0]
    given.name = "x"
    sizes = [given.type.tensor_type.shape.dim[i] for i in (0, 2, 3, 1)]
    shape = onnx.TensorShapeProto(
        dim=[onnx.TensorShapeProto.Dimension.FromString(s.SerializeToString()) for s in sizes]
    )
    given.type.tensor_type.shape.CopyFrom(shape)
    onnx.save(model, path)
    return path


def test_images_with_channels_last(tmp_path: Path) -> None:
    path = channels_last(tmp_path / "net.onnx")
    artifact, manifest = imported(path)
    assert manifest.options["layout"] == "NHWC"
    np.testing.assert_allclose(served(artifact, manifest)[1], original(path, last=True), atol=1e-5)
    transpose, conv = manifest.nodes[:2]
    assert (transpose.shape, transpose.parents) == ((3, 16, 16), ("input",))
    assert (conv.receptive_field, conv.jump, conv.start) == ((3, 3), (2, 2), (-1, -1))


def test_blue_first_reverses_the_channels_and_not_the_normalisation(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    artifact, manifest = imported(path, channel_order="BGR")
    assert (manifest.options["channel_order"], manifest.input.mean) == ("BGR", tuple(MEAN))
    np.testing.assert_allclose(served(artifact, manifest)[1], original(path, bgr=True), atol=1e-5)
    graph = OnnxFeatureExtractor(artifact / "model.onnx", manifest.nodes).graph
    assert graph.input_value == "x"  # normalised and reordered, which explanations begin at


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.UINT8, np.uint8), (TensorProto.DOUBLE, np.float64)])
def test_other_types_of_pixels(kind: int, dtype: type, last: bool, tmp_path: Path) -> None:
    path = (channels_last if last else small)(tmp_path / "net.onnx")
    model = onnx.load(path)
    first = model.graph.node[0]
    first.input[0] = "floats"
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["floats"], "floats", to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = kind
    onnx.save(model, path)
    probabilities, _ = served(*imported(path, **AS_THEY_ARE))
    np.testing.assert_allclose(probabilities, softmax(original(path, last=last, plain=True, dtype=dtype)), atol=1e-5)


def test_sigmoids_stay_independent_scores(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", end=[helper.make_node("Sigmoid", ["scores"], ["y"])])
    artifact, manifest = imported(path)
    assert (manifest.options["gives"], manifest.options["scores"]) == ("sigmoid", "independent")
    probabilities, logits = served(artifact, manifest)
    np.testing.assert_allclose(probabilities, original(path), atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), original(path), atol=1e-6)


@pytest.mark.parametrize("drops_axis", [False, True])
def test_one_sigmoid_is_two_classes(drops_axis: bool, tmp_path: Path) -> None:
    end = [
        helper.make_node("Gather", ["scores", "last"], ["one"], axis=1),
        helper.make_node("Sigmoid", ["one"], ["y"]),
    ]
    last = np.array(9) if drops_axis else np.array([9])
    path = small(tmp_path / "net.onnx", end=end, more={"last": last}, output_sizes=1 if drops_axis else 2)
    artifact, manifest = imported(path, classes=["cat", "dog"])
    assert not manifest.independent_scores
    probabilities, logits = served(artifact, manifest)
    np.testing.assert_allclose(probabilities[:, 1:], original(path), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(softmax(logits), probabilities, atol=1e-5)


class Net(nn.Module):
    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1))
        self.token, self.end = nn.Parameter(torch.ones(1, 1, 10)), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, x)


FROZEN = {
    "view": lambda net, x: net.body(x).view(x.size(0), -1),
    "resize": lambda net, x: net.body(nn.functional.interpolate(x, size=(20, 20), mode="bilinear")).flatten(1),
    "token": lambda net, x: torch.cat([net.token.expand(len(x), -1, -1), net.body(x).view(1, 1, 10)], 1).sum(1),
}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("form", FROZEN)
def test_a_frozen_batch_is_freed(form: str, dynamo: bool, tmp_path: Path) -> None:
    net = Net(FROZEN[form]).eval()
    path = export_torch(net, tmp_path / "net.onnx", size=16, dynamo=dynamo, batch=False)
    artifact, manifest = imported(path)
    assert "batch" not in manifest.options
    assert onnx.load(artifact / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    np.testing.assert_allclose(served(artifact, manifest)[1], original(path), atol=1e-5)


@pytest.mark.parametrize("declared", [1, 4, "n"])
@pytest.mark.parametrize("rest", [6, -1])
def test_a_constant_shape_that_begins_with_the_batch_is_freed(declared: int | str, rest: int, tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", image=(declared, 3, 16, 16))
    model = onnx.load(path)
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    frozen = np.array([4 if declared == 4 else 1, rest])
    model.graph.initializer.append(onnx.numpy_helper.from_array(frozen, "frozen"))
    flatten.CopyFrom(helper.make_node("Reshape", [*flatten.input, "frozen"], flatten.output, "their reshape"))
    onnx.save(model, path)
    artifact, manifest = imported(path)
    assert "batch" not in manifest.options
    assert manifest.options.get("original_batch") == (1 if declared == "n" else None)
    plain = small(tmp_path / "plain.onnx")
    np.testing.assert_allclose(served(artifact, manifest)[1], original(plain), atol=1e-5)


def test_a_network_for_one_image_that_cannot_be_freed_runs_them_one_by_one(tmp_path: Path) -> None:
    net = Net(lambda net, x: net.body(x - x.mean()).flatten(1)).eval()
    path = export_torch(net, tmp_path / "net.onnx", size=16, dynamo=False, batch=False)
    lines: list[str] = []
    artifact, manifest = imported(path, report=lines.append)
    assert "cannot be freed; images run one by one" in lines[-1]
    assert manifest.options["batch"] == 1
    np.testing.assert_allclose(served(artifact, manifest)[1], original(path), atol=1e-5)
    if openvino_unavailable_reason() is None:
        by_openvino = open_engine(artifact, manifest, engine="openvino").run(photographs())[1]
        np.testing.assert_allclose(by_openvino, original(path), atol=1e-5)
    extractor = OnnxFeatureExtractor(artifact / "model.onnx", manifest.nodes)
    whole = extractor.run(photographs(), ["logits"])[1][0]
    tail = extractor.tail(photographs()[:1], "image")
    np.testing.assert_allclose(tail.run(photographs())[1], whole, atol=1e-6)
    with pytest.raises(TritonError, match="takes one image at a time"):
        write_triton(artifact, tmp_path / "triton")


@pytest.mark.parametrize("linked", [False, True], ids=["beside", "in a cache of links"])
def test_weights_in_a_file_beside_the_model_are_merged(linked: bool, tmp_path: Path) -> None:
    plain = small(tmp_path / "plain.onnx")
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(onnx.load(plain), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    if linked:  # as Hugging Face's cache stores files
        (tmp_path / "blobs").mkdir()
        for number, file in enumerate((path, folder / "net.onnx.data")):
            file.rename(tmp_path / "blobs" / str(number))
            file.symlink_to(f"../blobs/{number}")
    artifact, manifest = imported(path)
    assert manifest.options["weight_files"] == ["net.onnx.data"]
    assert not (artifact / "net.onnx.data").exists()
    np.testing.assert_allclose(served(artifact, manifest)[1], original(plain), atol=1e-5)


def test_hidden_files_of_a_folder_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(photographs()[0]).save(folder / "x.png")
    (folder / "._x.png").write_bytes(b"Mac OS X")
    _, manifest = imported(small(tmp_path / "net.onnx"), images=[folder])
    assert manifest.dataset == {"compared_on": "1 images given with --images"}
