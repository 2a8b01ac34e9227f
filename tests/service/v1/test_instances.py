"""POST :predict, as the documentation of TensorFlow Serving and of KServe's V1 protocol has it."""

import base64
import gzip
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded

PATH = "/v1/models/lenet:predict"


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


FILES = [encoded(digit(index)) for index in range(3)]
ZEROS = np.zeros((28, 28), int).tolist()


@pytest.fixture(scope="module")
def expected(lenet_artifact):
    """The engine on its own: probabilities of FILES."""
    manifest = read_manifest(lenet_artifact)
    images = np.stack([decode_image(data, manifest.input) for data in FILES])
    return images, open_engine(lenet_artifact, manifest, device="cpu").run(images)[0]


def bodies(images: np.ndarray) -> dict[str, tuple[object, str]]:
    files = [b64(data) for data in FILES]
    return {
        "files": ({"instances": files}, "predictions"),
        "named files": ({"instances": [{"image_bytes": one} for one in files]}, "predictions"),
        "texts": ({"instances": [{"content": one["b64"]} for one in files]}, "predictions"),
        "data URLs": ({"instances": ["data:image/png;base64," + one["b64"] for one in files]}, "predictions"),
        "pixels": ({"instances": images.tolist()}, "predictions"),
        "grey pixels": ({"instances": images[..., 0].tolist()}, "predictions"),
        "named pixels": ({"instances": [{"image": one.tolist()} for one in images]}, "predictions"),
        "signature": ({"signature_name": "serving_default", "instances": files}, "predictions"),
        "columns": ({"inputs": files}, "outputs"),
        "named columns": ({"inputs": {"image": images.tolist()}}, "outputs"),
        "named column of files": ({"inputs": {"image_bytes": files}}, "outputs"),
    }


@pytest.mark.parametrize("kind", bodies(np.zeros((1, 28, 28, 1))))
def test_every_form_of_the_request_gives_what_the_engine_gives(client, expected, kind):
    images, wanted = expected
    body, key = bodies(images)[kind]
    for path in (PATH, "/v1/models/lenet:1:predict", "/v1/models/lenet/versions/1:predict"):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == [key]
        np.testing.assert_allclose(answer.json()[key], wanted, atol=1e-6)


def test_requests_are_counted_under_their_route_and_model(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent)
    client.post(PATH, json={"instances": [b64(FILES[0])]})
    line = 'convscope_requests_total{model="lenet",route="/v1/models/{model}:predict",status="2xx",version="1"}'
    assert [found for found in client.get("/metrics").text.splitlines() if found.startswith(line)] == [f"{line} 1.0"]


def test_one_image_may_be_a_column_without_a_list(client, expected):
    for inputs in (b64(FILES[0]), {"image": b64(FILES[0])}):
        answer = client.post(PATH, json={"inputs": inputs})
        np.testing.assert_allclose(answer.json()["outputs"], expected[1][:1], atol=1e-6)


def test_a_real_server_answers_as_the_documentation_of_the_protocols_has_it(server, expected):
    model = httpx.get(f"{server.url}/v1/models/lenet").json()
    assert (model["name"], model["ready"]) == ("lenet", True)  # KServe
    assert model["model_version_status"] == [  # TensorFlow Serving
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    assert httpx.get(f"{server.url}/v1/models/nobody").status_code == 404
    body = json.dumps({"instances": [b64(data) for data in FILES]})
    for headers in (  # requests.post(url, data=...), curl -d, KServe's client
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json"},
    ):
        answer = httpx.post(f"{server.url}{PATH}", content=body, headers=headers)
        np.testing.assert_allclose(answer.json()["predictions"], expected[1], atol=1e-6)
    packed, headers = gzip.compress(body.encode()), {"content-encoding": "gzip"}
    assert httpx.post(f"{server.url}{PATH}", content=packed, headers=headers).json() == answer.json()


REFUSED = [
    ({"instances": [{"b64": "photo.png"}]}, 400, "instances[0] is not base64: character 6"),
    ({"instances": [b64(FILES[0]), b64(b"no image")]}, 415, "instances[1]: the body (8 bytes"),
    ({"instances": [b64(FILES[0]), {"image": b64(FILES[1][:60])}]}, 400, "instances[1]: "),
    ({"instances": [{"b64": 3}]}, 400, "b64 in instances[0] must be a text in base64, got int"),
    ({"instances": [{"image": b64(FILES[0]), "key": "0"}]}, 400, "instances[0] has the keys 'image', 'key'"),
    ({"instances": [{}]}, 400, "instances[0] has the keys none"),
    ({"instances": [{"image": {"url": "x"}}]}, 400, "instances[0] has the keys 'url'"),
    ({"instances": [5]}, 400, "instances[0] must be"),
    ({"instances": [ZEROS, b64(FILES[0])]}, 400, "instances[1] is base64 and others are pixels"),
    ({"instances": ZEROS}, 422, "instances have the shape (28,)"),
    ({"instances": [[[0, 1], [2, 3]]]}, 422, "instances have the shape (2, 2) each; wanted (28, 28, 1) or (28, 28)"),
    ({"instances": [[[0.5]]]}, 400, "got float; pixels are from 0 to 255, as in the image"),
    ({"instances": [[[256]]]}, 400, "pixels must be from 0 to 255, got 256"),
    ({"instances": []}, 400, "instances must be a list with an entry for each image"),
    ({"instances": b64(FILES[0])}, 400, "instances must be a list with an entry for each image"),
    ({"instances": [b64(FILES[0])] * 257}, 413, "257 images; the limit of one request is 256"),
    ({"instances": [ZEROS], "inputs": [ZEROS]}, 400, "has instances and inputs"),
    ({"image": "x"}, 400, 'the key \'image\'; wanted {"instances": [{"b64": "BASE64"}, ...]}; that body goes to POST'),
    ({"instances": [ZEROS], "parameters": {}}, 400, "the key 'parameters'"),
    ({}, 400, "the JSON has no instances"),
    ([ZEROS], 400, "the JSON is no object"),
]


@pytest.mark.parametrize(("body", "status", "says"), REFUSED)
def test_errors_have_the_shape_of_the_protocol_and_the_reason(client, body, status, says):
    answer = client.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "says"),
    [
        ("POST", PATH, b"", {}, 400, "the body is empty"),
        ("POST", PATH, FILES[0], {}, 400, "the body is not JSON"),
        ("POST", PATH, FILES[0], {"content-type": "image/png"}, 415, "image files go to /v1/classify"),
        ("POST", PATH, b"x", {"content-encoding": "br"}, 415, "Content-Encoding is 'br'"),
        ("POST", "/v1/models/nobody:predict", b"x", {}, 404, "no model is called 'nobody'"),
        ("POST", "/v1/models/lenet/versions/2:predict", b"x", {}, 404, "has no version '2'"),
        ("POST", "/v1/models/lenet:1/versions/2:predict", b"x", {}, 400, "version"),
        ("POST", PATH, bytes(17 * 2**20), {}, 413, "the limit is 4 times 4194304"),
        ("POST", PATH, b"[" + b"1," * 3 * 2**20, {}, 413, "more than texts in it"),
        ("GET", PATH, None, {}, 405, "takes POST, not GET"),
    ],
)
def test_what_is_no_request_is_refused(client, method, path, content, headers, status, says):
    answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    if status == 405:
        assert answer.headers["allow"] == "POST"


def test_bodies_and_what_they_encode_are_held_within_the_limit(lenet_artifact):
    photo = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)))  # 30 kB
    client = client_for(lenet_artifact.parent.parent, held_limit_bytes=60_000)
    for _ in range(3):
        assert client.post(PATH, json={"instances": [b64(photo)]}).status_code == 429
    assert client.post(PATH, json={"instances": [b64(FILES[0])]}).status_code == 200


def test_an_explicit_token_is_wanted_and_its_error_has_the_shape_too(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, token="a-long-secret")
    answer = client.post(PATH, json={"instances": [b64(FILES[0])]})
    assert (answer.status_code, answer.json()) == (
        401,
        {"error": "this server requires the header Authorization: Bearer TOKEN"},
    )
