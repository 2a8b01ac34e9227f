"""What operators see of a real server with two workers: sums, JSON lines, ids, spans, and what is left behind."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.in_process import digit, encoded
from tests.real_server import running_server, until
from tests.service.scrape import scrape, total

COUNT = 60


def worker_processes(server):
    return [child for child in psutil.Process(server.process.pid).children() if child.is_running()]


def metrics_directory(server):
    (worker, *_) = worker_processes(server)
    return Path(worker.environ()["CONVSCOPE_STATE_DIR"])


@pytest.fixture(scope="module")
def server(lenet_artifact, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    settings = {"workers": 2, "log_format": "json", "access_log": True}
    with running_server(lenet_artifact.parent.parent, log, **settings) as running:
        until(lambda: total(scrape(httpx, running.url), "convscope_workers") == 2)
        yield running


@pytest.fixture(scope="module")
def client():
    """With a connection for each request, so that any worker is asked."""
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


@pytest.fixture(scope="module")
def asked(server, client):
    """The server after COUNT requests, of which one worker answered a third, and both have written so."""
    one, other = worker_processes(server)
    for stopped, indices in ((one, range(COUNT // 3)), (other, range(COUNT // 3, COUNT))):
        stopped.suspend()
        try:
            for index in indices:
                name = {"x-request-id": f"request-{index}"}
                answer = client.post(f"{server.url}/v1/classify", content=encoded(digit()), headers=name)
                assert (answer.status_code, answer.headers["x-request-id"]) == (200, f"request-{index}")
        finally:
            stopped.resume()

    def shares():  # as written to the folder, which one worker's own answers run ahead of
        written = [json.loads(path.read_text())["counts"] for path in metrics_directory(server).glob("*.json")]
        return sorted(sum(value for _, (value,) in counts["convscope_images"]) for counts in written)

    until(lambda: shares() == [COUNT // 3, COUNT - COUNT // 3])
    return server


def test_every_worker_answers_for_both(asked, client):
    for _ in range(10):  # so that both are asked

        def all_counted():
            values = scrape(client, asked.url)
            requests = total(values, "convscope_requests_total", route="/v1/classify", status="2xx", model="lenet")
            return requests == total(values, "convscope_images_total") == COUNT

        until(all_counted)
    values = scrape(client, asked.url)
    assert total(values, "convscope_model_loaded", model="lenet", version="1") == 2


def test_statistics_are_those_of_both_workers(asked, client):
    for path in ("/v2/models/stats", "/v2/models/lenet/stats", "/v2/models/lenet/versions/1/stats"):
        for _ in range(5):
            (stats,) = client.get(f"{asked.url}{path}").json()["model_stats"]
            assert (stats["inference_count"], stats["inference_stats"]["success"]["count"]) == (COUNT, COUNT)
            assert sum(row["batch_size"] * row["compute_infer"]["count"] for row in stats["batch_stats"]) == COUNT
            assert time.time() - 300 < stats["last_inference"] / 1000 < time.time() + 1


def test_bentomls_own_routes_are_named_and_carry_ids(server, client):
    for path, status in (("/livez", 200), ("/readyz", 200), ("/schema.json", 200), ("/a%0Ab", 404)):
        answer = client.get(f"{server.url}{path}", headers={"x-request-id": "mine"})
        assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, ["mine"])
    until(lambda: total(scrape(client, server.url), "convscope_requests_total", route="/schema.json") == 1)
    assert total(scrape(client, server.url), "convscope_requests_total", route="/a\nb") == 0


def test_every_line_of_the_log_is_json(asked):
    lines = [json.loads(line) for line in asked.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert {"bentoml.convscope", "bentoml.serve"} <= {line["logger"] for line in lines}
    of_requests = [line["request_id"] for line in lines if line.get("route") == "/v1/classify"]
    assert sorted(of_requests) == sorted(f"request-{index}" for index in range(COUNT))


def test_a_killed_workers_counts_stay_and_its_successor_goes_on_with_them(asked, client):
    before = total(scrape(client, asked.url), "convscope_images_total")
    victim = worker_processes(asked)[0]
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: total(scrape(client, asked.url), "convscope_workers") == 1, 10)
    assert total(scrape(client, asked.url), "convscope_images_total") == before
    until(lambda: total(scrape(client, asked.url), "convscope_workers") == 2)
    assert total(scrape(client, asked.url), "convscope_images_total") == before
    assert client.get(f"{asked.url}/v2/models/stats").json()["model_stats"][0]["inference_count"] == before
    assert len(list(metrics_directory(asked).glob("*.json"))) == 2


def test_the_folder_is_the_servers_own_and_goes_with_it(lenet_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CONVSCOPE_STATE_DIR", str(tmp_path / "of-another-server"))
    with running_server(lenet_artifact, tmp_path / "log") as running:
        directory = metrics_directory(running)
        assert directory.parent == tmp_path and directory.stat().st_mode & 0o077 == 0
        until(lambda: list(directory.glob("*.json")))
    assert not directory.exists()
