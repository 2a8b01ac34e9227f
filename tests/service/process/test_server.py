"""A real `bentoml serve` process, spoken to over real sockets."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import bentoml
import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from service.process.server import wait_until_ready
from tests.in_process import digit, encoded
from tests.real_server import free_port, running_server, stop

CONVSCOPE = [sys.executable, "-m", "convscope"]


@pytest.fixture(scope="module")
def server(lenet_artifact, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log, workers=2) as running:
        yield running


def test_two_workers_give_every_client_the_engines_answer(server, lenet_artifact):
    manifest = read_manifest(lenet_artifact)
    engine = open_engine(lenet_artifact, manifest, device="cpu")

    def ask(index):
        data = encoded(digit(index % 100))
        answer = client.post(f"{server.url}/v1/classify?top_k=10", content=data)
        found = {row["index"]: row["probability"] for row in answer.json()["results"][0]["predictions"]}
        wanted = engine.run(decode_image(data, manifest.input)[np.newaxis])[0][0]
        np.testing.assert_allclose([found[i] for i in range(10)], wanted, atol=1e-6)

    a_connection_each = httpx.Limits(max_keepalive_connections=0)  # to any worker
    with httpx.Client(limits=a_connection_each) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))


@pytest.mark.parametrize(
    ("environment", "host"),
    [({}, "127.0.0.1"), ({"BENTOML_CONTAINERIZED": "true"}, "0.0.0.0"), ({"CONVSCOPE_HOST": "::1"}, "::1")],
)
def test_bentoml_serve_listens_where_the_settings_say(environment, host):
    words = [sys.executable, "-c", "from service.app import Classifier; print(Classifier.config['http'])"]
    environment = {**os.environ, "CONVSCOPE_PORT": "3456", **environment}
    found = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(found.splitlines()[-1]) == {"host": host, "port": 3456}


def test_both_workers_say_what_they_serve_and_where(server):
    assert server.log.count("lenet:1: model.onnx on onnxruntime (cpu), golden images within") == 2


def test_health_page_and_native_routes_answer(server):
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.head(f"{server.url}/readyz").status_code == httpx.get(f"{server.url}/readyz").status_code == 200
    refused = httpx.post(f"{server.url}/readyz")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert refused.json()["error"]["code"] == "method_not_allowed"
    page = httpx.get(f"{server.url}/")
    assert "convscope" in page.text and "default-src 'self'" in page.headers["content-security-policy"]
    assert httpx.get(f"{server.url}/nowhere").json()["error"]["code"] == "path_unknown"


def test_bentomls_own_client_classifies_arrays(server, lenet_artifact):
    manifest = read_manifest(lenet_artifact)
    images = np.stack([decode_image(encoded(digit(index)), manifest.input) for index in range(5)])
    with bentoml.SyncHTTPClient(server.url) as client:
        found = client.predict(images=images)
    wanted, _ = open_engine(lenet_artifact, manifest, device="cpu").run(images)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "status"),
    [
        *((images, 400) for images in (None, "abc", [[[[300]]]], [[[[-1]]]], [[1], [1, 2]], {"a": 1}, [[[[0.5]]]])),
        *((images, 422) for images in ([], [[[[0]]]])),
    ],
)
def test_the_native_api_never_answers_500(server, images, status):
    assert httpx.post(f"{server.url}/predict", json={"images": images}).status_code == status


def test_a_damaged_artifact_leaves_a_running_server_unready_with_the_reason(lenet_artifact, tmp_path):
    root = tmp_path / "artifacts"
    shutil.copytree(lenet_artifact, root / "lenet/1")
    damaged = shutil.copytree(lenet_artifact, root / "other/1") / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with running_server(root, tmp_path / "log", ready=False) as running:
        ready = httpx.get(f"{running.url}/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "model_not_ready")
        assert str(damaged) in ready.json()["error"]["message"]
        assert httpx.post(f"{running.url}/v1/classify", content=encoded(digit())).status_code == 200


@pytest.fixture
def refused(run, monkeypatch):
    """`convscope serve` in this process, which no server may take the place of."""
    monkeypatch.setattr("os.execve", lambda *words: pytest.fail("a server was started"))

    def call(*words, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return run("serve", *words)

    return call


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "model.ts", "weights.safetensors", "golden.npz"])
def test_serve_refuses_a_flipped_byte_and_names_the_file(refused, lenet_artifact, tmp_path, file):
    damaged = shutil.copytree(lenet_artifact, tmp_path / "lenet/1") / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    done = refused(tmp_path)
    assert done.status == 1
    assert str(damaged) in done.err and "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1


def test_serve_says_which_port_is_taken(server, lenet_artifact):
    port = server.url.rpartition(":")[2]
    words = [*CONVSCOPE, "serve", lenet_artifact, "--port", port]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "CONVSCOPE_PORT" in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "status", "message"),
    [
        (["--port", "70000"], {}, 2, "CONVSCOPE_PORT: Input should be less than or equal to 65535"),
        ([], {"CONVSCOPE_THREADS": "many"}, 2, "CONVSCOPE_THREADS"),
        ([], {"CONVSCOPE_TYPO": "1"}, 2, "CONVSCOPE_TYPO is not a setting"),
        (["--engine", "tensorrt"], {}, 2, "tensorrt"),
        (["nowhere"], {}, 1, "no artifact in nowhere"),
    ],
)
def test_serve_refuses_bad_arguments_in_one_line(refused, lenet_artifact, words, environment, status, message):
    artifacts = [] if words[:1] == ["nowhere"] else [lenet_artifact]
    done = refused(*artifacts, *words, **environment)
    assert (done.status, len(done.err.splitlines())) == (status, 1), done.err
    assert message in done.err


def test_serve_as_a_command_serves_torchscript_and_stops_on_a_signal(lenet_artifact, tmp_path):
    port = free_port()
    words = [*CONVSCOPE, "serve", str(lenet_artifact), "--port", str(port), "--engine", "torchscript"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, timeout_s=120)
        (model,) = httpx.get(f"{url}/v1/models").json()["models"]
        assert (model["engine"], model["file"]) == ("torchscript", "model.ts")
        assert httpx.post(f"{url}/v1/classify", content=encoded(digit())).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        stop(process)
