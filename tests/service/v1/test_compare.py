import shutil

import pytest
import torch

from export.artifact.manifest import read_manifest
from export.pipeline.export import export_checkpoint
from export.verify.reference import rebuild
from models.checkpoint.directory import load_checkpoint, save_checkpoint
from models.graph.trace import capture
from models.images.decode import decode_image
from models.images.normalize import Normalize
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded


@pytest.fixture(scope="module")
def client(lenet_checkpoint, lenet_artifact, tmp_path_factory):
    """LeNet, the same with other weights from its second convolution on, and a network of other layers."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(lenet_artifact.parent, root / "lenet")
    changed = tmp_path_factory.mktemp("runs") / "lenet"
    shutil.copytree(lenet_checkpoint, changed)
    checkpoint = load_checkpoint(changed)
    with torch.no_grad():
        checkpoint.network.conv2.weight[3] += 0.5
    save_checkpoint(changed, checkpoint.config, checkpoint.network.state_dict())
    export_checkpoint(changed, out=root, name="lenet", formats=("onnx",))
    other = make_checkpoint(tmp_path_factory.mktemp("runs") / "simple", model="simple_cnn", size=28, count=12)
    export_checkpoint(other, out=root, name="simple", formats=("onnx",))
    return client_for(root)


def ask(client, query="", model="lenet:1", images=(0, 1)):
    files = [("images", (f"{index}.png", encoded(digit(index)))) for index in images]
    return client.post(f"/v1/models/{model}/compare{query}", files=files)


def eager(artifact, index):
    manifest = read_manifest(artifact)
    pixels = decode_image(encoded(digit(index)), manifest.input)
    return capture(
        rebuild(artifact, manifest).network, Normalize(manifest.input)(torch.from_numpy(pixels[None].copy()))
    )


def test_differences_of_two_images_are_those_of_the_trained_network(client, lenet_artifact):
    first, second = eager(lenet_artifact, 0), eager(lenet_artifact, 1)
    layers = ask(client).json()["layers"]
    assert [layer["layer"] for layer in layers] == list(first)
    for layer in layers:
        one, other = (values[layer["layer"]].flatten().double() for values in (first, second))
        assert layer["maximum"] == pytest.approx(float((one - other).abs().max()), abs=1e-4)
        assert layer["mean"] == pytest.approx(float((one - other).abs().mean()), abs=1e-4)
        assert layer["relative"] == pytest.approx(float((one - other).norm() / one.norm()), abs=1e-3)
        assert layer["cosine"] == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), abs=1e-3)


def test_an_image_with_itself_differs_by_exactly_nothing(client):
    answer = ask(client, images=(3, 3)).json()
    assert answer["begins"] is None
    for layer in answer["layers"]:
        assert (layer["maximum"], layer["mean"], layer["relative"], layer["cosine"]) == (0, 0, 0, 1)


def test_two_versions_differ_from_the_layer_whose_weights_were_changed(client):
    answer = ask(client, "?with=lenet:2", images=(0,)).json()
    assert answer["begins"] == "conv2"
    differences = {layer["layer"]: layer["maximum"] for layer in answer["layers"]}
    assert {name for name, value in differences.items() if value == 0} == {"conv1", "relu", "pool"}
    assert [(one["model"], one["version"]) for one in answer["models"]] == [("lenet", 1), ("lenet", 2)]


def test_layers_without_a_counterpart_are_named(client):
    answer = ask(client, "?with=simple", images=(0,)).json()
    tables = [
        {node["name"]: node["shape"] for node in client.get(f"/v1/models/{name}/graph").json()["nodes"]}
        for name in ("lenet:1", "simple")
    ]
    for mine, other, one in zip(tables, tables[::-1], answer["models"], strict=True):
        assert one["unmatched"] == [name for name, shape in mine.items() if other.get(name) != shape]
    matched = {name for name, shape in tables[0].items() if tables[1].get(name) == shape}
    assert {layer["layer"] for layer in answer["layers"]} == matched


def test_layers_can_be_chosen(client):
    assert [layer["layer"] for layer in ask(client, "?layers=conv*").json()["layers"]] == ["conv1", "conv2"]


@pytest.mark.parametrize(
    ("query", "images", "status", "part"),
    [
        ("", (0,), 400, "1 images came; send two"),
        ("?with=lenet:2", (0, 1), 400, "2 images came"),
        ("", (0, 1, 2), 413, "which is 2"),
        ("?with=absent", (0,), 404, "absent"),
        ("?layers=conv9", (0, 1), 404, "conv9"),
        ("?other=lenet", (0, 1), 400, "known are with, layers"),
    ],
)
def test_what_cannot_be_compared_is_refused(client, query, images, status, part):
    answer = ask(client, query, images=images)
    assert answer.status_code == status, answer.text
    assert part in answer.json()["error"]["message"]


def test_a_bad_image_is_refused(client):
    files = [("a", ("a.png", encoded(digit()))), ("b", ("b.png", b"no image"))]
    assert client.post("/v1/models/lenet:1/compare", files=files).status_code == 415
