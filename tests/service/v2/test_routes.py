"""What the Open Inference Protocol's routes answer, in process: what is known of models, and bad requests."""

import json
import shutil

import pytest

from export.artifact.manifest import read_manifest
from tests.in_process import client_for
from tests.service.v2.v2_requests import BYTES, INFER, PIXELS, PNG, ask, binary, element, tensor, with_bytes


def test_the_server_and_its_models_describe_themselves(client, lenet_artifact):
    server = client.get("/v2").json()
    assert server["name"] == "convscope"
    assert set(server["extensions"]) == {"binary_tensor_data", "classification", "model_repository", "statistics"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    model = client.get("/v2/models/lenet").json()
    assert model == client.get("/v2/models/lenet/versions/1").json() == client.get("/v2/models/lenet:1").json()
    assert (model["name"], model["versions"], model["platform"]) == ("lenet", ["1"], "onnxruntime_onnx")
    (image,) = model["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [-1, 28, 28, 1])
    assert image["parameters"]["or_datatype"] == "BYTES"
    assert [(out["name"], out["datatype"], out["shape"]) for out in model["outputs"]] == [
        ("probabilities", "FP32", [-1, 10]),
        ("logits", "FP32", [-1, 10]),
    ]
    named = [node.name for node in read_manifest(lenet_artifact).nodes if node.value]
    assert model["parameters"]["layers"].split(",") == named


def test_readiness_is_that_of_the_model_or_the_server(client, lenet_artifact, tmp_path):
    for path in ("/v2/models/lenet/ready", "/v2/models/lenet/versions/1/ready"):
        assert client.get(path).json() == {"name": "lenet", "ready": True}
    shutil.copytree(lenet_artifact, tmp_path / "lenet/1")
    damaged = shutil.copytree(lenet_artifact, tmp_path / "other/3") / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    partial = client_for(tmp_path)
    assert partial.get("/v2/health/live").status_code == 200
    assert partial.get("/v2/health/ready").status_code == 503
    assert str(damaged) in partial.get("/v2/health/ready").json()["error"]
    assert partial.get("/v2/models/lenet/ready").status_code == 200
    assert partial.get("/v2/models/other/ready").status_code == 404
    good, bad = partial.post("/v2/repository/index").json()
    assert good == {"name": "lenet", "version": "1", "state": "READY", "reason": ""}
    assert (bad["name"], bad["version"], bad["state"]) == ("other", "3", "UNAVAILABLE")
    assert str(damaged) in bad["reason"]
    assert partial.post("/v2/repository/index", json={"ready": True}).json() == [good]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/nobody", 404, "no model is called 'nobody'"),
        ("GET", "/v2/models/nobody/ready", 404, "nobody"),
        ("GET", "/v2/models/nobody/stats", 404, "nobody"),
        ("POST", "/v2/models/nobody/infer", 404, "nobody"),
        ("GET", "/v2/models/lenet/versions/2", 404, "lenet has no version '2'; served are 1"),
        ("POST", "/v2/models/lenet/versions/x/infer", 404, "no version 'x'"),
        ("GET", "/v2/models/lenet/config", 404, "there is nothing at /v2/models/lenet/config"),
        ("GET", "/v2/nowhere", 404, "there is nothing at /v2/nowhere"),
        ("GET", INFER, 405, "does not take GET"),
        ("POST", "/v2", 405, "does not take POST"),
        ("POST", "/v2/repository/models/lenet/load", 403, "loading and unloading are off"),
        ("POST", "/v2/repository/models/lenet/unload", 403, "loading and unloading are off"),
        ("POST", INFER, 400, "the body is empty"),
    ],
)
def test_errors_have_the_protocols_shape(client, method, path, status, message):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_a_token_guards_all_but_health(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, token="0123456789")
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    for path in ("/v2", "/v2/models/lenet", "/v2/models/lenet/ready", "/v2/models/stats"):
        refused = client.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "Authorization: Bearer" in refused.json()["error"]
        assert client.get(path, headers={"Authorization": "Bearer 0123456789"}).status_code == 200
    assert client.post(INFER, json=ask()).status_code == 401


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ([], 400, "the request must be an object"),
        ({}, 400, "inputs must be an array, got nothing"),
        ({"inputs": []}, 400, "inputs has 0 tensors; wanted one, 'image'"),
        ({"inputs": [tensor()] * 2}, 400, "inputs has 2 tensors"),
        ({"inputs": [5]}, 400, "an input must be an object, got int"),
        (ask(name="x"), 400, "there is no input 'x'"),
        (ask(name=None), 400, "name must be text, got nothing"),
        (ask(datatype="FP32"), 400, "image is 'FP32'; wanted UINT8 pixels or BYTES"),
        (ask(datatype=8), 400, "datatype must be text, got int"),
        (ask(shape=None), 400, "shape must be an array"),
        (ask(shape=[1, 28, 28, "1"]), 400, "shape must be an array of whole numbers"),
        (ask(shape=[True, 28, 28, 1]), 400, "shape must be an array of whole numbers"),
        (ask(shape=[-1, 28, 28, 1]), 400, "shape must be an array of whole numbers from 0"),
        (ask(shape=[1e300, 28, 28, 1]), 400, "shape must be an array of whole numbers"),
        (ask(shape=[]), 422, "the shape []; wanted [N, 28, 28, 1] of UINT8"),
        (ask(shape=[0, 28, 28, 1]), 422, "N from 1"),
        (ask(shape=[28, 28, 1]), 422, "the shape [28, 28, 1]"),
        (ask(shape=[1, 1, 28, 28]), 422, "the shape [1, 1, 28, 28]"),
        (ask(shape=[2**64 - 1, 28, 28, 1]), 413, "the limit of one request is 256"),
        (ask(shape=[257, 28, 28, 1]), 413, "257 images; the limit of one request is 256"),
        (ask(shape=[2, 28, 28, 1]), 400, "data has 784 values; the shape [2, 28, 28, 1] has 1568"),
        (ask(data=None), 400, "data must be an array, got nothing"),
        (ask(data="AAAA"), 400, "data must be an array, got str"),
        (ask(data=[0.5] * PIXELS), 400, "data must be whole numbers, got float"),
        (ask(data=[True] * PIXELS), 400, "data must be whole numbers, got bool"),
        (ask(data=[None] * PIXELS), 400, "data must be whole numbers, got NoneType"),
        (ask(data=[256] * PIXELS), 400, "pixels must be from 0 to 255, got 256 to 256"),
        (ask(data=[[1], [1, 2]]), 400, "rows of different lengths"),
        (ask(data=[[1], 2]), 400, "numbers and rows side by side"),
        (ask(data=[[[[0] * 28] * 28]]), 400, "data has 1x1x28x28 values; the shape [1, 28, 28, 1] has 784"),
        (ask(data=["x" * 100_000, *["y"] * (PIXELS - 1)]), 400, "data must be whole numbers, got str"),
        (ask(data=["a"] * PIXELS), 400, "data must be whole numbers, got str"),
        (ask(data=[]), 400, "data has 0 values; the shape [1, 28, 28, 1] has 784"),
        (ask(parameters=[]), 400, "parameters must be an object"),
        (ask(parameters={"shared_memory_region": "x"}), 400, "there is no shared memory here"),
        (ask(parameters={"binary_data_size": PIXELS}), 400, "0 bytes follow the JSON and data is given too"),
        (with_bytes(b"", PIXELS), 400, "binary_data_size is 784, 0 bytes follow the JSON"),
        (ask(**BYTES, data=["x"]), 400, "JSON texts cannot hold image files; send them as binary data"),
        (ask(**BYTES, data=["x"], parameters={"content_type": "base64"}), 400, "not base64"),
        (ask(**BYTES, data=[1], parameters={"content_type": "base64"}), 400, "not base64"),
        (ask(**BYTES, data=["", ""], parameters={"content_type": "base64"}), 400, "data has 2 elements"),
        (ask(**BYTES, data=["AAAA"], parameters={"content_type": "base64"}), 415, "is not an image"),
        (ask(**BYTES, data=[""], parameters={"content_type": "base64"}), 400, "the image has no bytes"),
        (ask(datatype="BYTES", shape=[1, 2]), 422, "wanted [N] or [N, 1] of BYTES"),
        ({**ask(), "id": 5}, 400, "id must be text, got int"),
        ({**ask(), "parameters": 5}, 400, "parameters must be an object"),
        ({**ask(), "parameters": {"binary_data_output": 1}}, 400, "binary_data_output must be true or false"),
        ({**ask(), "outputs": {}}, 400, "outputs must be an array"),
        ({**ask(), "outputs": ["logits"]}, 400, "an output must be an object"),
        ({**ask(), "outputs": [{"name": "logits"}] * 2}, 400, "asked for more than once"),
        ({**ask(), "outputs": [{"name": "conf1"}]}, 404, "no layer 'conf1'; near are conv1"),
        ({**ask(), "outputs": [{"name": "conv*"}]}, 404, "an output is one layer by its name, got 'conv*'"),
        ({**ask(), "outputs": [{"name": "x" * 300}]}, 400, "300 characters; the limit is 256"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(client, content, status, message):
    answer = client.post(INFER, content=json.dumps(content).encode())
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"binary_data": 1}, "binary_data must be true or false, got int"),
        ({"classification": -1}, "classification is -1"),
        ({"classification": 1.5}, "classification must be a whole number, got float"),
        ({"classification": True}, "classification must be a whole number, got bool"),
        ({"shared_memory_region": "x"}, "no shared memory"),
    ],
)
def test_bad_parameters_of_an_output_are_refused(client, parameters, message):
    answer = client.post(INFER, json={**ask(), "outputs": [{"name": "logits", "parameters": parameters}]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_layers_are_no_classifications(client):
    wanted = [{"name": "conv1", "parameters": {"classification": 3}}]
    answer = client.post(INFER, json={**ask(), "outputs": wanted})
    assert answer.status_code == 400
    assert "classification is for probabilities and logits, not for the layer 'conv1'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (binary(with_bytes(bytes(PIXELS)), bytes(PIXELS - 1)), 400, "binary_data_size is 784, 783 bytes follow"),
        (binary(with_bytes(bytes(PIXELS)), bytes(PIXELS + 1)), 400, "binary_data_size is 784, 785 bytes follow"),
        (binary(with_bytes(bytes(10)), bytes(10)), 400, "the shape [1, 28, 28, 1] has 784 bytes"),
        (binary(with_bytes(b"", -1), b""), 400, "binary_data_size is -1"),
        (binary(with_bytes(b"", 2**70), b""), 400, "binary_data_size must be a whole number, got float"),
        (binary(with_bytes(b"", "784"), bytes(PIXELS)), 400, "binary_data_size must be a whole number, got str"),
        (binary(ask(), bytes(5)), 400, "5 bytes follow the JSON, and no input has the parameter"),
        (binary(ask(), b"", -1), 400, "Inference-Header-Content-Length is '-1'"),
        (binary(ask(), b"", "1e3"), 400, "Inference-Header-Content-Length is '1e3'"),
        (binary(ask(), b"", "\u0663".encode()), 400, "wanted a number of bytes"),
        (binary(ask(), b"", 10**8), 400, "Inference-Header-Content-Length is 100000000, and the body has"),
        (binary(ask(), b"", 20), 400, "the request is not JSON"),
        (binary(ask(), b"", 0), 422, "wanted 784, the pixels of one image of 28x28x1"),
        (binary(with_bytes(b"", **BYTES), b""), 400, "the data ends before element 0 of 1"),
        (binary(with_bytes(element(PNG)[:-1], **BYTES), element(PNG)[:-1]), 400, "element 0 says it has"),
        (binary(with_bytes(element(PNG) * 2, **BYTES), element(PNG) * 2), 400, "bytes are left after 1 elements"),
        (binary(with_bytes(element(PNG, 2**32 - 1), **BYTES), element(PNG, 2**32 - 1)), 400, "has 4294967295 bytes"),
        (binary(with_bytes(element(b""), **BYTES), element(b"")), 400, "the image has no bytes"),
        (binary(with_bytes(element(b"hello"), **BYTES), element(b"hello")), 415, "is not an image"),
        (binary(with_bytes(element(PNG[:60]), **BYTES), element(PNG[:60])), 400, "truncated or damaged"),
    ],
)
def test_bad_binary_requests_are_refused_with_the_reason(client, request_, status, message):
    answer = client.post(INFER, **request_)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


def test_one_bad_image_fails_the_tensor_and_is_named(client):
    tail = element(PNG) + element(b"hello")
    answer = client.post(INFER, **binary(with_bytes(tail, datatype="BYTES", shape=[2]), tail))
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("image 1: ")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs":' * 2000, b'"\\ud800"', b"null"])
def test_what_is_not_json_is_refused(client, body):
    assert client.post(INFER, content=body).status_code == 400
