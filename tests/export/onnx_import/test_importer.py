"""Classifiers from elsewhere: what goes in is what comes out, whoever wrote the file, and whatever its form."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

from export.artifact.golden import check_golden
from export.artifact.manifest import ArtifactError, check_files, read_manifest
from export.engines.selection import open_engine
from export.onnx_import.importer import import_model
from export.onnx_import.input_spec import make_spec
from export.onnx_import.source import read_onnx
from export.verify.verification import verify_artifact
from models.images.decode import decode_image
from tests.export.onnx_import.onnx_models import CLASSES, export_torch, small, torchvision_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SOFTMAX = helper.make_node("Softmax", ["scores"], ["p"], "softmax", axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


def import_file(path: Path, out: Path, *, size: int = 16, **fields) -> Path:
    spec = make_spec(fields.pop("mode", "RGB"), (size, size), mean=fields.pop("mean", MEAN), std=fields.pop("std", STD))
    return import_model(read_onnx(path), classes=CLASSES, spec=spec, out=out, **fields)


def photographs(size: int, count: int = 5) -> list[Image.Image]:
    whole = Image.fromarray(load_sample_image("flower.jpg"))
    return [whole.crop((40 * index, 30 * index, 40 * index + 200, 30 * index + 200)) for index in range(count)]


def by_hand(path: Path, images: list[Image.Image], size: int, output: str) -> np.ndarray:
    """What a user of the original would have done: torchvision's transforms and ONNX Runtime, an image at a time."""
    prepared = v2.Compose(
        [v2.Resize((size, size)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    dtype = np.float16 if "float16" in given.type else np.float32
    runs = [session.run([output], {given.name: prepared(image)[None].numpy().astype(dtype)})[0] for image in images]
    return np.concatenate(runs).astype(np.float32)


def ours(artifact: Path, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Through the file formats, decoding and engine of a server."""
    manifest, pixels = read_manifest(artifact), []
    for image in images:
        image.save(buffer := io.BytesIO(), "PNG")
        pixels.append(decode_image(buffer.getvalue(), manifest.input))
    return open_engine(artifact, manifest, device="cpu").run(np.stack(pixels))


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_1",
        pytest.param("mobilenet_v3_small", marks=pytest.mark.acceptance),
        pytest.param("resnet18", marks=pytest.mark.acceptance),
    ],
)
def test_what_pytorch_exported_gives_the_same_answers(name: str, dynamo: bool, tmp_path: Path) -> None:
    path = export_torch(torchvision_model(name), tmp_path / "net.onnx", size=64, dynamo=dynamo)
    artifact = import_file(path, tmp_path / "artifacts", size=64)
    images = photographs(64)
    probabilities, logits = ours(artifact, images)
    wanted = by_hand(path, images, 64, "y")
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(probabilities, softmax(wanted), atol=1e-5)
    parity = read_manifest(artifact).files["model.onnx"].parity
    assert parity["batches"] == [1, 2, 7, 64, 256] and parity["maximum_difference"] < 1e-5


GRAPH_FORMATS = {
    "logits": {},
    "names that ours have": {"name": "image", "to": "logits"},
    "our names for other values": {"name": "probabilities", "to": "image"},
    "batch 1": {"image": (1, 3, 16, 16)},
    "size left open": {"image": ("n", 3, None, None)},
    "everything left open": {"image": (None, None, None, None)},
    "opset 7": {"opset": 7},
    "half precision": {"dtype": TensorProto.FLOAT16},
    "softmax": {"end": [SOFTMAX]},
    "softmax of opset 11": {"end": [SOFTMAX], "opset": 11},
    "softmax and identity": {"end": [SOFTMAX, helper.make_node("Identity", ["p"], ["q"])]},
    "softmax in half precision": {"end": [SOFTMAX], "dtype": TensorProto.FLOAT16},
    "log softmax": {"end": [helper.make_node("LogSoftmax", ["scores"], ["p"], axis=1)]},
    "weights listed as inputs": {
        "ir": 3,
        "opset": 8,
        "more_inputs": [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, size)
            for key, size in (("fc.weight", [10, 6]), ("fc.bias", [10]), ("w", [6, 3, 3, 3]), ("b", [6]))
        ],
    },
}


@pytest.mark.parametrize("form", GRAPH_FORMATS)
def test_every_form_of_a_file_gives_the_same_answers(form: str, tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", **GRAPH_FORMATS[form])
    output = onnx.load(path).graph.output[0].name
    artifact = import_file(path, tmp_path / "artifacts")
    images = photographs(16)
    wanted = by_hand(path, images, 16, output)
    probabilities, logits = ours(artifact, images)
    assert probabilities.dtype == logits.dtype == np.float32
    tolerance = 1e-3 if "half" in form else 1e-6  # of the original too: rounded inputs
    final = wanted if form.startswith("softmax") else softmax(wanted)
    np.testing.assert_allclose(probabilities, final, atol=tolerance)
    np.testing.assert_allclose(softmax(logits), final, atol=tolerance)
    verify_artifact(artifact)


def test_grey_images(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", image=("n", 1, 16, 16))
    artifact = import_file(path, tmp_path / "artifacts", mode="L", mean=(0.0,), std=(1 / 255,))
    images = [image.convert("L") for image in photographs(16)]
    pixels = np.stack([np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) for image in images])
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": pixels[:, None].astype(np.float32)})[0]  # 0 to 255, as it is
    np.testing.assert_allclose(ours(artifact, images)[1], wanted, rtol=1e-5, atol=1e-3)


def test_noted_sizes_do_not_freeze_the_batch(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", image=(1, 3, 16, 16))
    noted = onnx.shape_inference.infer_shapes(onnx.load(path))
    assert noted.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value == 1
    onnx.save(noted, path)
    artifact = import_file(path, tmp_path / "artifacts")
    model = onnx.load(artifact / "model.onnx")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    batches = {value.name: value.type.tensor_type.shape.dim[0].dim_param for value in inferred}
    assert batches["conv"] == batches["flat"] == "N"


def test_one_of_several_outputs(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", end=[SOFTMAX], outputs=("p", "relu", "scores"))
    file = read_onnx(path, output="scores")
    artifact = import_model(
        file, classes=CLASSES, spec=make_spec("RGB", (16, 16), mean=MEAN, std=STD), out=tmp_path / "artifacts"
    )
    images = photographs(16)
    np.testing.assert_allclose(ours(artifact, images)[1], by_hand(path, images, 16, "scores"), atol=1e-5)
    assert [node.op_type for node in onnx.load(artifact / "model.onnx").graph.node].count("Softmax") == 1


def test_functions_of_the_files_own(tmp_path: Path) -> None:
    swish = helper.make_function(
        "own", "Swish", ["a"], ["b"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    end = [helper.make_node("Swish", ["scores"], ["swished"], domain="own")]
    path = small(tmp_path / "net.onnx", end=end, functions=[swish], imports=[helper.make_opsetid("own", 1)])
    artifact = import_file(path, tmp_path / "artifacts")
    images = photographs(16)
    np.testing.assert_allclose(ours(artifact, images)[1], by_hand(path, images, 16, "swished"), atol=1e-5)


def test_the_artifact_holds_the_original_and_says_what_it_is(tmp_path: Path) -> None:
    path = small(tmp_path / "their net.onnx", producer_name="tool", producer_version="1.2", end=[SOFTMAX])
    artifact = import_file(path, tmp_path / "artifacts", name="theirs")
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    assert (artifact / "original.onnx").read_bytes() == path.read_bytes()
    assert set(manifest.files) == {"model.onnx", "original.onnx", "golden.npz"}
    assert (manifest.name, manifest.version, manifest.model) == ("theirs", 1, "onnx")
    assert manifest.options == {"file": "their net.onnx", "output": "p", "gives": "probabilities", "opset": 17}
    assert manifest.versions["tool"] == "1.2"
    assert "china.jpg and flower.jpg" in manifest.dataset["compared_on"]
    engine = open_engine(artifact, manifest, device="cpu")
    assert check_golden(engine, artifact, manifest) < 1e-5
    (said,) = [json.loads(prop.value) for prop in onnx.load(artifact / "model.onnx").metadata_props]
    assert (said["name"], said["version"], said["classes"]) == ("theirs", 1, CLASSES)
    assert said["weights_sha256"] == manifest.files["original.onnx"].sha256


def test_notes_about_the_writers_machine_stay_in_the_original_alone(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/home/somebody"
    model.graph.input[0].doc_string = model.graph.initializer[0].doc_string = "/home/somebody"
    for holder in (model, model.graph, model.graph.node[1], model.graph.initializer[1]):
        holder.metadata_props.add(key="path", value="/home/somebody")
    onnx.save(model, path)
    artifact = import_file(path, tmp_path / "artifacts")
    assert b"/home/somebody" in (artifact / "original.onnx").read_bytes()
    assert b"/home/somebody" not in (artifact / "model.onnx").read_bytes()


def test_images_of_the_users_own_decide(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(photographs(16)):
        image.save(folder / f"{index}.png")
    path = small(tmp_path / "net.onnx")
    artifact = import_file(path, tmp_path / "artifacts", images=[folder, folder / "0.png"])
    manifest = read_manifest(artifact)
    assert manifest.dataset == {"compared_on": "6 images given with --images"}
    assert manifest.files["model.onnx"].parity["images"] == 6


def test_verification_compares_with_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = import_file(small(tmp_path / "net.onnx"), tmp_path / "artifacts")
    verify_artifact(artifact)
    monkeypatch.setattr("export.verify.verification.check_files", lambda *_: None)  # which would notice first
    model = onnx.load(artifact / "original.onnx")
    model.graph.initializer[0].raw_data = (
        model.graph.initializer[1].raw_data[:0] + model.graph.initializer[0].raw_data[::-1]
    )
    onnx.save(model, artifact / "original.onnx")
    with pytest.raises(ArtifactError, match=r"model.onnx: at batch 1 image \d+ differs"):
        verify_artifact(artifact)
