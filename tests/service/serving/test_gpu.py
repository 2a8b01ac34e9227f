"""A GPU whose memory is full, and one that stops working, as far as they can be had without a GPU."""

import shutil

import httpx
import numpy as np
import psutil
import pytest

from export.engines.onnxruntime import OnnxEngine
from export.engines.protocol import DeviceLost, DeviceMemoryFull
from service.errors import GpuLost
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.in_process import client_for, digit, encoded
from tests.real_server import running_server, until
from tests.service.raw_connections import half_sent
from tests.service.scrape import scrape, total
from tests.service.serving.changed_artifacts import rename

DIGIT, WHITE = encoded(digit()), encoded(np.full((28, 28), 255, np.uint8))
LOST, FULL = "the GPU stopped working: CUDA error 719", "the GPU's memory is full"
LOSING = "tests.service.serving.losing_gpu:Classifier"


@pytest.fixture
def failing(monkeypatch):
    """Makes every engine raise an error at a white image; gives the count of all runs."""
    runs, original = [], OnnxEngine.run

    def use(error):
        def run(self, images):
            runs.append(len(images))
            if (images == 255).all(axis=(1, 2, 3)).any():
                raise error
            return original(self, images)

        monkeypatch.setattr(OnnxEngine, "run", run)
        return runs

    return use


@pytest.mark.parametrize(
    ("error", "code", "wait"),
    [(DeviceMemoryFull(FULL), "device_memory_full", "1"), (DeviceLost(LOST), "device_lost", "10")],
)
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/models/lenet/feature-maps", "/v2/models/lenet/infer"])
def test_a_failure_of_the_gpu_has_a_code_and_a_retry_after(lenet_artifact, failing, path, error, code, wait):
    failing(error)
    client = client_for(lenet_artifact)
    headers = {"inference-header-content-length": "0", "content-type": "image/png"} if "infer" in path else {}
    answer = client.post(path, content=WHITE, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, wait)
    wanted = str(error) if path.startswith("/v2") else {"code": code, "message": str(error)}
    assert answer.json() == {"error": wanted}
    assert total(scrape(client), "convscope_errors_total", code=code) == 1


def test_a_full_memory_costs_one_batch(lenet_artifact, failing):
    failing(DeviceMemoryFull(FULL))
    client = client_for(lenet_artifact)
    assert [client.post("/v1/classify", content=image).status_code for image in (WHITE, DIGIT)] == [503, 200]
    (stats,) = client.get("/v2/models/lenet/stats").json()["model_stats"]
    assert [stats["inference_stats"][one]["count"] for one in ("fail", "success")] == [1, 1]
    assert client.get("/v2/health/ready").status_code == 200


def test_a_model_that_is_loaded_while_the_memory_is_full_is_loaded_later(lenet_artifact, monkeypatch):
    client, original = client_for(lenet_artifact, memory_limit_mb=1_000_000), OnnxEngine.run

    def full(self, images):
        raise DeviceMemoryFull(FULL)

    monkeypatch.setattr(OnnxEngine, "run", full)
    answer = client.post("/v1/classify", content=DIGIT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "device_memory_full")
    monkeypatch.setattr(OnnxEngine, "run", original)
    assert client.post("/v1/classify", content=DIGIT).status_code == 200


def test_a_lost_gpu_is_not_asked_again_and_logged_once(lenet_artifact, failing, caplog):
    runs = failing(DeviceLost(LOST))
    client = client_for(lenet_artifact)
    before = len(runs)
    asked = [client.post("/v1/classify", content=image) for image in (WHITE, DIGIT, DIGIT)]
    assert [answer.json()["error"]["code"] for answer in asked] == ["device_lost"] * 3
    assert len(runs) == before + 1
    for path in ("/v2/health/ready", "/v2/models/lenet/ready", "/v1/models/lenet"):
        answer = client.get(path)
        assert answer.status_code == 503 and LOST in answer.text
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{LOST}; this process can run no model on it any more"
    ]


def test_the_loss_ends_a_worker_that_serves_and_none_that_starts(lenet_artifact, tmp_path, failing, monkeypatch):
    def opened():
        catalog = VersionCatalog(read_settings(artifacts=tmp_path, device="cpu"))
        catalog.open()
        catalog.gpu.on_failure = lambda: ended.append(catalog)  # as `Shutdown.prepare` does, once everything is opened
        return catalog

    ended: list[VersionCatalog] = []
    rename(shutil.copytree(lenet_artifact, tmp_path / "lenet/1"), name="lenet", version=1)
    failing(DeviceLost(LOST))
    healthy = opened()
    with pytest.raises(DeviceLost, match="719"):
        healthy.models()[0].engine.run(np.full((1, 28, 28, 1), 255, np.uint8))
    assert ended == [healthy]

    monkeypatch.setattr(
        "export.artifact.golden.preprocess_image", lambda image, spec: np.full(spec.shape, 255, np.uint8)
    )
    shutil.copytree(tmp_path / "lenet/1", tmp_path / "other/1")
    catalog = opened()
    assert catalog.not_ready == LOST and catalog.failures and ended == [healthy]
    assert all(LOST in reason for reason in catalog.failures.values())
    with pytest.raises(GpuLost, match="719"):
        catalog.entry("lenet")


def workers_of(server):
    return {child.pid for child in psutil.Process(server.process.pid).children()}


def test_a_worker_that_loses_its_gpu_ends_and_another_takes_its_place(lenet_artifact, tmp_path):
    settings = {"service": LOSING, "workers": 2, "deadline_s": 600}
    with running_server(lenet_artifact, tmp_path / "log", **settings) as server:
        until(lambda: total(scrape(httpx, server.url), "convscope_workers") == 2)
        before = workers_of(server)
        slow = [half_sent(httpx.URL(server.url).port) for _ in range(8)]  # which keep no lost worker
        lost = httpx.post(f"{server.url}/v1/classify", content=WHITE)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "device_lost")
        seen = set()

        def replaced():
            answer = httpx.post(f"{server.url}/v1/classify", content=DIGIT, timeout=60)
            seen.add(answer.status_code if answer.status_code == 200 else answer.json()["error"]["code"])
            return len(workers_of(server) & before) == 1 and len(workers_of(server)) == 2

        until(replaced)
        assert seen <= {200, "device_lost"}
        until(lambda: total(scrape(httpx, server.url), "convscope_workers") == 2)
        assert total(scrape(httpx, server.url), "convscope_errors_total", code="device_lost") >= 1
        for _ in range(20):
            assert httpx.post(f"{server.url}/v1/classify", content=DIGIT).status_code == 200
        for connection in slow:
            connection.close()
    assert server.log.count("this process can run no model on it any more") == 1
    assert server.log.count("the worker ends, as its GPU is lost") == 1
    assert "Traceback" not in server.log


def test_a_gpu_that_is_lost_at_start_leaves_the_worker_unready_with_the_reason(lenet_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSE_ALWAYS", "yes")
    with running_server(lenet_artifact, tmp_path / "log", ready=False, service=LOSING) as server:
        for _ in range(5):
            ready = httpx.get(f"{server.url}/readyz")
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "model_not_ready")
            assert "CUDA error 719" in ready.json()["error"]["message"]
            asked = httpx.post(f"{server.url}/v1/classify", content=DIGIT)
            assert (asked.status_code, asked.json()["error"]["code"]) == (503, "device_lost")
    assert server.log.count("is not served") == server.log.count("Service convscope initialized") == 1
    assert "the worker ends" not in server.log


@pytest.mark.acceptance
def test_in_a_container_the_server_ends_with_its_worker(lenet_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "true")
    with running_server(lenet_artifact, tmp_path / "log", service=LOSING) as server:
        assert httpx.post(f"{server.url}/v1/classify", content=WHITE).json()["error"]["code"] == "device_lost"
        server.process.wait(timeout=60)
    assert "the worker ends, as its GPU is lost" in server.log
