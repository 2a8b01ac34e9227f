"""The numbers the Open Inference Protocol's infer gives, in process, in each form a request and an answer can have."""

import base64
import gzip
import zlib

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from export.artifact.manifest import read_manifest
from export.verify.reference import rebuild
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded
from tests.service.v2.v2_requests import INFER

COUNT = 3
FILES = [encoded(digit(0)), encoded(digit(1), "JPEG"), encoded(digit(2), "BMP")]


@pytest.fixture(scope="module")
def pixels(lenet_artifact):
    spec = read_manifest(lenet_artifact).input
    return np.stack([decode_image(data, spec) for data in FILES])


@pytest.fixture(scope="module")
def wanted(lenet_artifact, pixels):
    """What ONNX Runtime makes of the exported file."""
    session = onnxruntime.InferenceSession(lenet_artifact / "model.onnx", providers=["CPUExecutionProvider"])
    return dict(
        zip(["probabilities", "logits"], session.run(["probabilities", "logits"], {"image": pixels}), strict=True)
    )


def infer(client, tensor, outputs=None, *, compress=lambda body: body, headers=(), **options):
    """Sends what tritonclient makes of a request, and has it read the answer."""
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs, **options)
    given = {"Inference-Header-Content-Length": str(length)} if length is not None else {}
    answer = client.post(INFER, content=compress(body), headers={**given, **dict(headers)})
    assert answer.status_code == 200, answer.text
    header = answer.headers.get("inference-header-content-length")
    assert answer.headers["content-type"] == ("application/json" if header is None else "application/octet-stream")
    return InferenceServerClient.parse_response_body(answer.content, header_length=header and int(header))


def uint8(pixels, *, binary_data=True):
    tensor = InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary_data)
    return tensor


def files(shape=(COUNT,)):
    tensor = InferInput("image", list(shape), "BYTES")
    tensor.set_data_from_numpy(np.array(FILES, dtype=np.object_).reshape(shape))
    return tensor


def check(result, wanted):
    for name, values in wanted.items():
        found = result.as_numpy(name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, values, atol=1e-5)


@pytest.mark.parametrize("output_binary", [True, False])
@pytest.mark.parametrize("form", ["binary", "json", "files", "files in a column"])
def test_every_form_of_input_and_output_gives_the_networks_answer(client, pixels, wanted, form, output_binary):
    tensor = {
        "binary": lambda: uint8(pixels),
        "json": lambda: uint8(pixels, binary_data=False),
        "files": files,
        "files in a column": lambda: files((COUNT, 1)),
    }[form]()
    outputs = [InferRequestedOutput(name, binary_data=output_binary) for name in ("logits", "probabilities")]
    result = infer(client, tensor, outputs, request_id="a b c")
    check(result, wanted)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("lenet", "1", "a b c")
    assert [output["name"] for output in response["outputs"]] == ["logits", "probabilities"]
    assert ["data" in output for output in response["outputs"]] == [not output_binary] * 2


def test_without_outputs_both_scores_come(client, pixels, wanted):
    result = infer(client, uint8(pixels))
    check(result, wanted)
    assert "id" not in result.get_response()
    plain = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}  # nested too
    answer = client.post(INFER, json={"inputs": [plain], "model_name": "ignored"})
    for output in answer.json()["outputs"]:
        np.testing.assert_allclose(output["data"], wanted[output["name"]].reshape(-1), atol=1e-5)


def test_one_output_may_be_binary_and_another_not(client, pixels, wanted):
    outputs = [InferRequestedOutput("probabilities", binary_data=False), InferRequestedOutput("logits")]
    result = infer(client, uint8(pixels), outputs)
    check(result, wanted)
    assert ["data" in output for output in result.get_response()["outputs"]] == [True, False]


def test_base64_is_read_where_it_is_said_to_be(client, wanted):
    texts = [base64.b64encode(data).decode() for data in FILES]
    for data in (texts, [[text] for text in texts]):
        tensor = {"name": "image", "datatype": "BYTES", "shape": [COUNT], "data": data}
        answer = client.post(INFER, json={"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]})
        probabilities = answer.json()["outputs"][0]["data"]
        np.testing.assert_allclose(probabilities, wanted["probabilities"].reshape(-1), atol=1e-5)


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/jpeg"])
def test_a_raw_body_is_one_image(client, pixels, wanted, content_type):
    body = FILES[1] if content_type == "image/jpeg" else pixels[1].tobytes()
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": content_type}
    answer = client.post(INFER, content=body, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    result = InferenceServerClient.parse_response_body(answer.content, header_length=length)
    check(result, {name: values[1:2] for name, values in wanted.items()})


@pytest.mark.parametrize("binary_data", [True, False])
@pytest.mark.parametrize("name", ["probabilities", "logits"])
def test_classifications_are_the_highest_with_their_labels(client, pixels, wanted, name, binary_data):
    outputs = [InferRequestedOutput(name, binary_data=binary_data, class_count=3)]
    found = infer(client, uint8(pixels), outputs).as_numpy(name)
    assert found.shape == (COUNT, 3)
    for row, scores in zip(found, wanted[name], strict=True):
        texts = [text.decode() if binary_data else text for text in row]
        values, indices, labels = zip(*(text.split(":") for text in texts), strict=True)
        assert [int(index) for index in indices] == np.argsort(-scores)[:3].tolist()
        np.testing.assert_allclose([float(value) for value in values], np.sort(scores)[::-1][:3], atol=1e-5)
        assert labels == indices  # the classes of this network are called by their numbers


def test_more_classes_than_there_are_gives_all(client, pixels):
    outputs = [InferRequestedOutput("logits", class_count=1000)]
    assert infer(client, uint8(pixels), outputs).as_numpy("logits").shape == (COUNT, 10)


def test_layers_of_a_batch_are_those_of_the_trained_network(client, lenet_artifact, pixels, wanted):
    manifest = read_manifest(lenet_artifact)
    names = ["relu_1", "conv1", "fc.0"] if "fc.0" in {node.name for node in manifest.nodes} else ["relu_1", "conv1"]
    network = rebuild(lenet_artifact, manifest).network
    extractor = create_feature_extractor(network, train_return_nodes=names, eval_return_nodes=names).eval()
    normalised = (pixels / np.float32(255) - np.float32(manifest.input.mean)) / np.float32(manifest.input.std)
    with torch.no_grad():
        eager = extractor(torch.from_numpy(normalised.astype(np.float32).transpose(0, 3, 1, 2)))
    outputs = [
        InferRequestedOutput(name, binary_data=index % 2 == 0) for index, name in enumerate([*names, "probabilities"])
    ]
    result = infer(client, files(), outputs)
    for name in names:
        np.testing.assert_allclose(result.as_numpy(name), eager[name].numpy(), atol=1e-4)
    check(result, {"probabilities": wanted["probabilities"]})
    parameters = result.get_response()["parameters"]
    assert parameters["layers_file"] == "model.onnx"
    assert 0 <= parameters["maximum_difference"] < 1e-5


def test_a_large_batch_of_layers_is_run_in_parts(lenet_artifact, pixels):
    client = client_for(lenet_artifact.parent.parent, max_batch_size=2)
    outputs = [InferRequestedOutput("conv1")]
    result = infer(client, uint8(pixels), outputs).as_numpy("conv1")
    for image, found in zip(pixels, result, strict=True):
        alone = infer(client, uint8(image[np.newaxis]), outputs).as_numpy("conv1")
        np.testing.assert_allclose(found, alone[0], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "binary_data", "message"),
    [
        (
            {"inspection_limit_values": 9000},
            True,
            "of 3 images hold 14112 values; the limit is 9000 (CONVSCOPE_INSPECTION_LIMIT_VALUES)",
        ),
        ({"inspection_limit_json_values": 9000}, False, "or for binary data"),
    ],
)
def test_layers_are_limited(lenet_artifact, pixels, settings, binary_data, message):
    client = client_for(lenet_artifact.parent.parent, **settings)
    outputs = [InferRequestedOutput("conv1", binary_data=binary_data)]
    body, length = InferenceServerClient.generate_request_body([uint8(pixels)], outputs=outputs)
    answer = client.post(INFER, content=body, headers={"Inference-Header-Content-Length": str(length)})
    assert (answer.status_code, message in answer.json()["error"]) == (413, True), answer.text


def in_two_members(data):
    return gzip.compress(data[:100]) + gzip.compress(data[100:])


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("GZip", in_two_members), ("deflate", zlib.compress)],
)
def test_compressed_bodies_are_unpacked(client, pixels, wanted, encoding, compress):
    for binary_data in (True, False):
        tensor = uint8(pixels, binary_data=binary_data)
        check(infer(client, tensor, compress=compress, headers={"Content-Encoding": encoding}), wanted)


# No time in these: a test is named by its bytes, and the processes that share the tests out must agree on the names.
BOMB = gzip.compress(bytes(80 * 2**20), mtime=0)


@pytest.mark.parametrize(
    ("body", "encoding", "status", "message"),
    [
        (b"{}", "br", 415, "Content-Encoding is 'br'; wanted gzip, deflate or none"),
        (b"{}", "gzip, gzip", 415, "Content-Encoding is 'gzip, gzip'"),
        (b"{}", "gzip", 400, "the body is not gzip"),
        (b"", "gzip", 400, "the gzip body is cut off"),
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip", 400, "the gzip body is cut off"),
        (gzip.compress(b"{}", mtime=0) + b"xx", "gzip", 400, "the body is not gzip"),
        (gzip.compress(b"{}", mtime=0) + b"\x1f", "gzip", 400, "the gzip body is cut off"),
        (zlib.compress(b"{}") + b"x", "deflate", 400, "1 bytes follow the end of the deflate body"),
        (zlib.compress(b"{}"), "gzip", 400, "the body is not gzip"),
        (BOMB, "gzip", 413, "the body holds more bytes than the limit, which is 4194304 (CONVSCOPE_JSON_LIMIT_BYTES)"),
    ],
)
def test_bad_compressed_bodies_are_refused(client, body, encoding, status, message):
    answer = client.post(INFER, content=body, headers={"Content-Encoding": encoding})
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


def test_a_bomb_before_binary_data_is_stopped_by_the_bodys_limit_and_nothing_stays_held(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, held_limit_bytes=70 * 2**20)
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "20"}
    for _ in range(3):  # a second would not fit if the first were still counted
        answer = client.post(INFER, content=BOMB, headers=headers)
        assert (answer.status_code, "the limit, which is 67108864" in answer.json()["error"]) == (413, True)
    tight = client_for(lenet_artifact.parent.parent, held_limit_bytes=10 * 2**20)
    assert tight.post(INFER, content=BOMB, headers=headers).status_code == 429


def test_torchscript_serves_the_protocol_too(lenet_artifact, pixels, wanted):
    client = client_for(lenet_artifact.parent.parent, engine="torchscript")
    assert client.get("/v2/models/lenet").json()["platform"] == "pytorch_libtorch"
    check(infer(client, uint8(pixels)), wanted)
