"""The public clients of the Open Inference Protocol, as their documentation has them, against a real server."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as httpclient
import tritonclient.http.aio as aioclient
from tritonclient.utils import InferenceServerException

from export.artifact.manifest import read_manifest
from models.images.decode import decode_image
from tests.in_process import digit, encoded

PNG = encoded(digit())
PAGE = (Path(__file__).parents[3] / "docs/http-v2.md").read_text()


@pytest.fixture(scope="module")
def client(server):
    with httpclient.InferenceServerClient(url=server.url.removeprefix("http://"), concurrency=2) as client:
        yield client


@pytest.fixture(scope="module")
def wanted(lenet_artifact):
    """What ONNX Runtime makes of `digit()`."""
    image = decode_image(PNG, read_manifest(lenet_artifact).input)[np.newaxis]
    session = onnxruntime.InferenceSession(lenet_artifact / "model.onnx", providers=["CPUExecutionProvider"])
    return image, *session.run(["probabilities", "logits"], {"image": image})


def files(*contents):
    tensor = httpclient.InferInput("image", [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(contents, dtype=np.object_))
    return tensor


def test_the_client_finds_the_server_and_the_model(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("lenet")
    assert client.is_model_ready("lenet", "1")
    assert not client.is_model_ready("lenet", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("lenet")["inputs"][0]["shape"] == [-1, 28, 28, 1]
    (entry,) = client.get_model_repository_index()
    assert (entry["name"], entry["version"], entry["state"]) == ("lenet", "1", "READY")


def test_the_client_gets_errors_with_their_status(client):
    with pytest.raises(InferenceServerException, match=r"\[404\] no model is called 'nobody'"):
        client.get_model_metadata("nobody")
    with pytest.raises(InferenceServerException, match=r"\[403\] loading and unloading are off"):
        client.load_model("lenet")
    with pytest.raises(InferenceServerException, match=r"\[403\] loading and unloading are off"):
        client.unload_model("lenet")
    with pytest.raises(InferenceServerException, match=r"\[415\] .* is not an image"):
        client.infer("lenet", [files(b"hello")])


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_client_infers_from_pixels(client, wanted, compression):
    image, probabilities, logits = wanted
    tensor = httpclient.InferInput("image", list(image.shape), "UINT8")
    tensor.set_data_from_numpy(image, binary_data=compression != "deflate")
    result = client.infer(
        "lenet",
        [tensor],
        model_version="1",
        request_id="7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-5)
    np.testing.assert_allclose(result.as_numpy("logits"), logits, atol=1e-5)
    assert result.get_response()["id"] == "7"


def test_the_client_infers_from_files_and_gets_classes_and_layers(client, wanted):
    _, probabilities, _ = wanted
    outputs = [
        httpclient.InferRequestedOutput("probabilities", class_count=2),
        httpclient.InferRequestedOutput("conv1"),
        httpclient.InferRequestedOutput("logits", binary_data=False),
    ]
    jpeg = encoded(digit(), "JPEG", quality=100)
    result = client.infer("lenet", [files(PNG, jpeg)], outputs=outputs)
    value, index, label = result.as_numpy("probabilities")[0, 0].decode().split(":")
    assert (int(index), label) == (probabilities.argmax(), str(probabilities.argmax()))
    assert float(value) == pytest.approx(probabilities.max(), abs=1e-5)
    assert result.as_numpy("conv1").shape == (2, 6, 28, 28)
    assert result.as_numpy("logits").shape == (2, 10)


def test_the_client_infers_many_at_once(client, wanted):
    _, probabilities, _ = wanted
    running = [client.async_infer("lenet", [files(PNG)]) for _ in range(20)]
    for request in running:
        np.testing.assert_allclose(request.get_result().as_numpy("probabilities"), probabilities, atol=1e-5)
    (stats,) = client.get_inference_statistics("lenet")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 20


def test_the_asyncio_client_infers(server, wanted):
    _, probabilities, _ = wanted

    async def main():
        async with aioclient.InferenceServerClient(server.url.removeprefix("http://")) as client:
            return await client.infer("lenet", [files(PNG)])

    np.testing.assert_allclose(asyncio.run(main()).as_numpy("probabilities"), probabilities, atol=1e-5)


def on_the_page(language, server, folder):
    """A program or commands of the page, for this server's model and address."""
    (block,) = re.findall(rf"```{language}\n((?:import|curl).*?)```", PAGE, re.S)
    (folder / "example.png").write_bytes(PNG)
    address = server.url.removeprefix("http://")
    block = block.replace("127.0.0.1:3000", address).replace("runs/lenet-digits/", "")
    return block.replace("lenet-digits", "lenet")


def test_the_program_of_the_page_runs(server, wanted, tmp_path):
    program = on_the_page("python", server, tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    value, index, label = first.split(":")
    assert (int(index), label) == (wanted[1].argmax(), str(wanted[1].argmax()))
    assert float(value) == pytest.approx(wanted[1].max(), abs=1e-5)
    assert others[2:] == ["(1, 6, 28, 28)"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_the_page_run(server, wanted, tmp_path):
    _, probabilities, logits = wanted
    commands = on_the_page("", server, tmp_path)
    done = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    text, decoder = done.stdout.decode(), json.JSONDecoder()
    metadata, end = decoder.raw_decode(text)
    answer, end = decoder.raw_decode(text, end)
    assert metadata["platform"] == "onnxruntime_onnx"
    assert answer["id"] == "42"
    np.testing.assert_allclose(answer["outputs"][0]["data"], logits[0], atol=1e-5)
    body = (tmp_path / "scores.bin").read_bytes()
    _, end = decoder.raw_decode(body.decode("latin-1"))
    np.testing.assert_allclose(np.frombuffer(body[end:], "<f4")[:10], probabilities[0], atol=1e-5)
