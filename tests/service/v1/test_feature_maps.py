import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from export.artifact.manifest import read_manifest
from export.engines.onnxruntime import OnnxEngine
from export.verify.reference import rebuild
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded


@pytest.fixture(scope="module")
def eager(lenet_artifact):
    """Every layer of the trained network for `digit()`, by torchvision's own feature extractor."""
    manifest = read_manifest(lenet_artifact)
    network = rebuild(lenet_artifact, manifest).network
    names = get_graph_node_names(network)[1][1:]
    pixels = decode_image(encoded(digit()), manifest.input).astype(np.float32) / 255
    normalised = (pixels - np.float32(manifest.input.mean)) / np.float32(manifest.input.std)
    extractor = create_feature_extractor(network, train_return_nodes=names, eval_return_nodes=names).eval()
    with torch.no_grad():
        values = extractor(torch.from_numpy(normalised.transpose(2, 0, 1)[np.newaxis]))
    return {name: value[0].numpy() for name, value in values.items()}


def url(lenet_artifact, query=""):
    return f"/v1/models/{lenet_artifact.parent.name}/feature-maps{query}"


def test_json_has_every_layer_of_the_trained_network(client, eager, lenet_artifact):
    answer = client.post(url(lenet_artifact), content=encoded(digit())).json()
    assert [layer["name"] for layer in answer["layers"]] == list(eager)
    for layer in answer["layers"]:
        wanted = eager[layer["name"]]
        assert layer["shape"] == list(wanted.shape)
        np.testing.assert_allclose(layer["values"], wanted, atol=1e-4)
        assert layer["minimum"] == pytest.approx(wanted.min(), abs=1e-4)
        assert layer["maximum"] == pytest.approx(wanted.max(), abs=1e-4)
        assert layer["mean"] == pytest.approx(wanted.mean(), abs=1e-4)


def test_predictions_are_those_of_classify(client, lenet_artifact):
    maps = client.post(url(lenet_artifact), content=encoded(digit())).json()
    classified = client.post("/v1/classify", content=encoded(digit())).json()
    for ours, theirs in zip(maps["predictions"], classified["results"][0]["predictions"], strict=True):
        assert ours["index"] == theirs["index"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-6)


def test_npz_has_the_same_numbers(client, eager, lenet_artifact):
    answer = client.post(url(lenet_artifact, "?format=npz&layers=conv*,relu_1"), content=encoded(digit()))
    with np.load(io.BytesIO(answer.content)) as arrays:
        assert set(arrays.files) == {"probabilities", "conv1", "conv2", "relu_1"}
        for name in ("conv1", "conv2", "relu_1"):
            np.testing.assert_allclose(arrays[name], eager[name], atol=1e-4)


def test_tiles_show_each_channel_scaled_to_the_layers_range(client, eager, lenet_artifact):
    answer = client.post(url(lenet_artifact, "?values=tiles&layers=conv2"), content=encoded(digit())).json()
    (layer,) = answer["layers"]
    tiles = layer["tiles"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(tiles["png"]))))
    assert "values" not in layer
    value = eager["conv2"]
    grey = (value - value.min()) / (value.max() - value.min()) * 255
    for channel in range(16):
        row, column = divmod(channel, tiles["columns"])
        top, left = row * (tiles["tile_height"] + 1), column * (tiles["tile_width"] + 1)
        tile = picture[top : top + tiles["tile_height"], left : left + tiles["tile_width"]]
        np.testing.assert_allclose(tile, grey[channel], atol=0.6)  # rounding, and float error at the half


def test_the_image_is_shown_as_the_network_sees_it(client, lenet_artifact):
    faint = (digit() // 4 + 60).astype(np.uint8)  # not to be stretched to full contrast
    answer = client.post(url(lenet_artifact, "?values=tiles&layers=conv1"), content=encoded(faint)).json()
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"]["png"]))))
    assert (picture == decode_image(encoded(faint), read_manifest(lenet_artifact).input)[..., 0]).all()


def test_png_is_one_sheet_of_the_layers_asked_for(client, lenet_artifact):
    heights = []
    for layers in ("conv1", "conv1,pool", "*"):
        answer = client.post(url(lenet_artifact, f"?format=png&layers={layers}"), content=encoded(digit()))
        assert answer.headers["content-type"] == "image/png"
        sheet = Image.open(io.BytesIO(answer.content))
        assert len(sheet.getcolors(1 << 24)) > 20
        heights.append(sheet.height)
    assert heights == sorted(set(heights))


@pytest.mark.parametrize(
    ("query", "body", "status", "code", "message"),
    [
        ("?layers=conv3", b"x", 404, "layer_unknown", "has no layer 'conv3'; near are conv"),
        ("?layers=layer4.*", b"x", 404, "layer_unknown", "has no layer 'layer4.*'"),
        ("?format=xml", b"x", 400, "parameter_invalid", "format is 'xml'; wanted one of json, npz, png"),
        ("?layer=conv1", b"x", 400, "parameter_invalid", "no parameter 'layer'"),
        ("", b"", 400, "body_empty", "empty"),
        ("", b"text", 415, "image_unsupported", "not an image"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(client, lenet_artifact, query, body, status, code, message):
    answer = client.post(url(lenet_artifact, query), content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert message in answer.json()["error"]["message"]


def test_two_images_are_one_too_many(client, lenet_artifact):
    answer = client.post(url(lenet_artifact), files=[("a", encoded(digit()))] * 2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")


def test_too_many_values_are_refused_before_anything_runs(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, inspection_limit_json_values=5000)
    answer = client.post(url(lenet_artifact), content=b"never looked at")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_values")
    assert (
        "the limit is 5000 (CONVSCOPE_INSPECTION_LIMIT_JSON_VALUES): choose some with ?layers="
        in answer.json()["error"]["message"]
    )
    assert client.post(url(lenet_artifact, "?layers=conv1"), content=encoded(digit())).status_code == 200


def test_another_served_file_is_named_with_its_difference(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, engine="torchscript")
    answer = client.post(url(lenet_artifact, "?layers=conv1"), content=encoded(digit())).json()
    assert answer["file"] == "model.onnx"
    assert answer["served"]["file"] == "model.ts"
    assert 0 <= answer["served"]["maximum_difference"] < 1e-5


def test_the_graph_lists_the_layers_with_their_geometry(client, eager, lenet_artifact):
    graph = client.get(f"/v1/models/{lenet_artifact.parent.name}/graph").json()
    nodes = {node["name"]: node for node in graph["nodes"]}
    assert list(nodes) == list(eager)
    assert nodes["conv2"]["receptive_field"] == [14, 14]
    assert nodes["conv2"]["start"] == [-2, -2]
    assert nodes["fc.0"]["start"] is None
    assert nodes["conv2"]["parents"] == ["pool"]
    assert nodes["conv2"]["kernel"] == [5, 5]
    assert sum(node["parameters"] for node in nodes.values()) == 61_706


def test_channels_are_chosen_by_index_and_by_rank(client, eager, lenet_artifact):
    ask = lambda query: client.post(url(lenet_artifact, query), content=encoded(digit())).json()["layers"]  # noqa: E731
    (layer,) = ask("?layers=conv2&channels=0-2,9")
    assert layer["channels"] == [0, 1, 2, 9]
    assert layer["shape"] == [16, *eager["conv2"].shape[1:]]
    np.testing.assert_allclose(layer["values"], eager["conv2"][[0, 1, 2, 9]], atol=1e-4)
    (layer,) = ask("?layers=conv2&top=3&rank=max")
    wanted = np.argsort(-eager["conv2"].max(axis=(1, 2)))[:3]
    assert layer["channels"] == wanted.tolist()
    np.testing.assert_allclose(layer["values"], eager["conv2"][wanted], atol=1e-4)
    (layer,) = ask("?layers=fc.2&top=2")
    assert layer["channels"] == np.argsort(-eager["fc.2"])[:2].tolist()


@pytest.mark.parametrize("scale", ["layer", "channel", "global"])
def test_a_byte_for_each_number_in_json_and_npz(client, eager, lenet_artifact, scale):
    query = f"?layers=conv*&top=4&values=uint8&scale={scale}"
    layers = client.post(url(lenet_artifact, query), content=encoded(digit())).json()["layers"]
    answer = client.post(url(lenet_artifact, f"{query}&format=npz"), content=encoded(digit()))
    with np.load(io.BytesIO(answer.content)) as arrays:
        for layer in layers:
            name, sent = layer["name"], layer["bytes"]
            found = np.frombuffer(base64.b64decode(sent["data"]), np.uint8).reshape(sent["shape"])
            np.testing.assert_array_equal(found, arrays[name])
            np.testing.assert_array_equal(layer["channels"], arrays[f"{name}/channels"])
            low, high = (np.float32(sent[key])[:, None, None] for key in ("low", "high"))
            wanted = eager[name][layer["channels"]]
            np.testing.assert_allclose(low + found / 255 * (high - low), wanted, atol=float((high - low).max()) / 500)
            np.testing.assert_array_equal(np.float32(sent["low"]), arrays[f"{name}/low"])


def test_statistics_are_of_all_channels(client, eager, lenet_artifact):
    query = "?layers=relu&channels=0&statistics=true"
    (layer,) = client.post(url(lenet_artifact, query), content=encoded(digit())).json()["layers"]
    value, found = eager["relu"], layer["statistics"]
    assert found["mean"] == pytest.approx(value.mean(), abs=1e-4)
    assert found["zeros"] == pytest.approx((value == 0).mean(), abs=1e-3)
    assert sum(found["histogram"]) == value.size
    assert len(found["channels"]) == 6


def test_tiles_scaled_by_channel_use_the_whole_range_in_each(client, lenet_artifact):
    query = "?layers=conv2&values=tiles&scale=channel&channels=0-3"
    (layer,) = client.post(url(lenet_artifact, query), content=encoded(digit())).json()["layers"]
    tiles = layer["tiles"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(tiles["png"]))))
    for channel in range(4):
        row, column = divmod(channel, tiles["columns"])
        top, left = row * (tiles["tile_height"] + 1), column * (tiles["tile_width"] + 1)
        tile = picture[top : top + tiles["tile_height"], left : left + tiles["tile_width"]]
        assert (tile.min(), tile.max()) == (0, 255)


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ("?channels=0-99", 400, "conv1 has channels 0 to 5"),
        ("?channels=a", 400, "wanted indices and ranges"),
        ("?channels=1&top=2", 400, "either channels or top"),
        ("?rank=max", 400, "rank goes with top"),
        ("?top=0", 400, "top is '0'"),
        ("?top=3&rank=median", 400, "wanted one of mean, max, l2"),
        ("?scale=row", 400, "wanted one of layer, channel"),
        ("?values=bytes", 400, "wanted one of numbers, tiles, uint8"),
        ("?statistics=yes", 400, "wanted one of false, true"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(client, lenet_artifact, query, status, part):
    answer = client.post(url(lenet_artifact, query), content=encoded(digit()))
    assert answer.status_code == status
    assert part in answer.json()["error"]["message"]


def test_a_size_over_the_limit_comes_with_a_query_that_fits(lenet_artifact):
    limited = client_for(lenet_artifact.parent.parent, inspection_limit_values=3000)
    answer = limited.post(url(lenet_artifact, "?format=npz"), content=encoded(digit()))
    assert answer.status_code == 413
    top = answer.json()["error"]["message"].partition("top=")[2].partition(" ")[0]
    assert limited.post(url(lenet_artifact, f"?format=npz&top={top}"), content=encoded(digit())).status_code == 200
    over = limited.post(url(lenet_artifact, f"?format=npz&top={int(top) + 1}"), content=encoded(digit()))
    assert over.status_code == 413


def ablated_logits(lenet_artifact, layer, channels, index):
    """Logits of a class with one channel of a layer at zero after the other, by a hook in PyTorch."""
    manifest = read_manifest(lenet_artifact)
    network = rebuild(lenet_artifact, manifest).network.eval()
    pixels = decode_image(encoded(digit()), manifest.input).astype(np.float32) / 255
    normalised = (pixels - np.float32(manifest.input.mean)) / np.float32(manifest.input.std)
    x = torch.from_numpy(normalised.transpose(2, 0, 1))
    found = []
    for channel in [None, *range(channels)]:

        def strike_out(_module, _inputs, value, channel=channel):
            value = value.clone()
            if channel is not None:
                value[:, channel] = 0
            return value

        hook = network.get_submodule(layer).register_forward_hook(strike_out)
        with torch.no_grad():
            found.append(float(network(x[None])[0, index]))
        hook.remove()
    return np.array(found)


def test_channels_are_ranked_by_what_they_contribute_to_a_class(client, lenet_artifact):
    logits = ablated_logits(lenet_artifact, "conv2", 16, 7)
    wanted = logits[0] - logits[1:]
    query = "?layers=conv2&top=5&rank=contribution&class=7&values=uint8"
    answer = client.post(url(lenet_artifact, query), content=encoded(digit())).json()
    assert answer["class"] == {"label": "7", "index": 7}
    (layer,) = answer["layers"]
    assert layer["channels"] == np.argsort(-wanted, kind="stable")[:5].tolist()
    np.testing.assert_allclose(layer["contributions"], np.sort(wanted)[:-6:-1], atol=1e-3)
    unnamed = client.post(url(lenet_artifact, query.replace("class=7&", "")), content=encoded(digit())).json()
    assert unnamed["class"]["index"] == unnamed["predictions"][0]["index"]


def test_the_contribution_of_a_vectors_elements(client, lenet_artifact):
    query = "?layers=fc.2&top=10&rank=contribution&class=3&format=npz"
    with np.load(io.BytesIO(client.post(url(lenet_artifact, query), content=encoded(digit())).content)) as arrays:
        by_class = dict(zip(arrays["fc.2/channels"].tolist(), arrays["fc.2/contributions"], strict=True))
        value = dict(zip(arrays["fc.2/channels"].tolist(), arrays["fc.2"], strict=True))
    assert by_class.pop(3) == pytest.approx(float(value[3]), abs=1e-4)  # a logit contributes itself to itself
    assert set(by_class.values()) == {0}


def test_too_many_contributions_are_refused_before_anything_runs(client, lenet_artifact, monkeypatch):
    monkeypatch.setattr("service.inspection.chosen_channels.MAX_CONTRIBUTIONS", 21)
    for layers, status in (("conv1,conv2", 413), ("conv2", 200)):
        query = f"?layers={layers}&top=2&rank=contribution&values=uint8"
        answer = client.post(url(lenet_artifact, query), content=encoded(digit()))
        assert answer.status_code == status
        if status == 413:
            assert "each of 22 channels of 2 layers; at most 21" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?class=3", "class goes with rank=contribution"),
        ("?top=2&class=3", "class goes with rank=contribution"),
        ("?top=2&rank=contribution&class=10", "class is '10'; wanted 0 to 9"),
        ("?rank=contribution", "rank goes with top"),
    ],
)
def test_a_class_goes_with_contributions(client, lenet_artifact, query, message):
    answer = client.post(url(lenet_artifact, query), content=encoded(digit()))
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True)


def test_the_served_file_runs_once_for_each_image(client, lenet_artifact, monkeypatch):
    ran = []
    run = OnnxEngine.run
    monkeypatch.setattr(OnnxEngine, "run", lambda self, images: ran.append(len(images)) or run(self, images))
    odd = np.full((28, 28), 77, np.uint8)
    answers = [client.post(url(lenet_artifact, "?layers=conv1"), content=encoded(odd)).json() for _ in range(3)]
    assert ran == [1]
    assert len({answer["served"]["maximum_difference"] for answer in answers}) == 1
    client.post(url(lenet_artifact, "?layers=conv1"), content=encoded(odd + 1))
    assert ran == [1, 1]
