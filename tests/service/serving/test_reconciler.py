"""Versions that come and go while a real server with two workers answers: every worker, and no request fails."""

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import psutil
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from export.pipeline.export import export_checkpoint
from tests.conftest import make_checkpoint
from tests.in_process import digit, encoded
from tests.real_server import running_server, until
from tests.service.serving.changed_artifacts import flip_byte, rename

IMAGE = encoded(digit())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def publish(lenet_artifact, root, tmp_path_factory):
    """Puts a version in its place as an export does: whole, in one step."""

    def published(where, *, damaged=False):
        name, version = where.split("/")
        copy = shutil.copytree(lenet_artifact, tmp_path_factory.mktemp("made") / version)
        rename(copy, name=name, version=int(version))
        if damaged:
            flip_byte(copy / "model.onnx")
        (root / name).mkdir(exist_ok=True)
        shutil.move(copy, root / where)

    return published


@pytest.fixture(scope="module")
def server(root, publish, tmp_path_factory):
    publish("base/1")
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(root, log, workers=2, watch_s=0.3, allow_loading=True) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60) as client:
        yield client


def ask(server, model):
    """Status and version of an answer, on a connection of its own, so that any worker may answer."""
    answer = httpx.post(f"{server.url}/v1/classify?model={model}", content=IMAGE)
    return answer.status_code, answer.json().get("version")


def answers(server, model, count=20):
    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(lambda _: ask(server, model), range(count)))


def served(server, publish, *versions):
    """Publishes these and waits until both workers have them."""
    for version in versions:
        publish(version)
    model, _, newest = versions[-1].partition("/")
    until(lambda: set(answers(server, model)) == {(200, int(newest))})


def states(client, model):
    index = client.get_model_repository_index()
    return {row["version"]: row["state"] for row in index if row["name"] == model}


class Asking:
    """Asks all the time while the block runs."""

    def __init__(self, server, model):
        self.server, self.model, self.seen, self.done = server, model, [], threading.Event()

    def __enter__(self):
        self.threads = [threading.Thread(target=self._ask) for _ in range(3)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _ask(self):
        while not self.done.is_set():
            self.seen.append(ask(self.server, self.model))
            time.sleep(0.02)  # so that the server has the processor too


def test_a_new_version_is_taken_up_by_both_workers_without_a_failed_request(server, publish):
    served(server, publish, "grows/1")
    with Asking(server, "grows") as asking:
        served(server, publish, "grows/2")
    assert {status for status, _ in asking.seen} == {200}
    assert {version for _, version in asking.seen} == {1, 2}
    assert set(answers(server, "grows:1")) == {(200, 1)}


def test_a_bad_new_version_replaces_nothing_and_is_named(server, publish, client):
    served(server, publish, "spoiled/1")
    publish("spoiled/2", damaged=True)
    until(lambda: server.log.count("spoiled/2 is not served") == 2)
    assert set(answers(server, "spoiled")) == {(200, 1)}
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert any("spoiled/2" in row["artifact"] for row in httpx.get(f"{server.url}/v1/models").json()["failed"])
    assert states(client, "spoiled") == {"1": "READY", "2": "UNAVAILABLE"}


def test_a_version_that_is_still_being_copied_is_waited_for(server, root, lenet_artifact):
    (root / "slow/1").mkdir(parents=True)
    shutil.copyfile(lenet_artifact / "manifest.json", root / "slow/1/manifest.json")
    rename(root / "slow/1", name="slow")
    for count in range(6):  # it changes more often than the directory is looked at
        (root / "slow/1/part").write_bytes(bytes(count))
        time.sleep(0.1)
    for path in lenet_artifact.iterdir():
        if path.name != "manifest.json":
            shutil.copyfile(path, root / "slow/1" / path.name)
    (root / "slow/1/part").unlink()
    until(lambda: set(answers(server, "slow")) == {(200, 1)})
    assert "slow/1 is not served" not in server.log


def test_a_version_that_is_taken_away_is_let_go_and_the_older_answers(server, publish, root):
    served(server, publish, "shrinks/1", "shrinks/2")
    shutil.rmtree(root / "shrinks/2")
    until(lambda: set(answers(server, "shrinks")) == {(200, 1)})
    assert ask(server, "shrinks:2") == (404, None)


def test_unloading_and_loading_by_call_hold_for_both_workers_once_they_are_answered(server, publish, client):
    served(server, publish, "called/1")
    for _ in range(3):
        client.unload_model("called")
        assert set(answers(server, "called")) == {(503, None)}
        assert set(answers(server, "base")) == {(200, 1)}
        assert not client.is_model_ready("called") and client.is_server_ready()
        assert states(client, "called") == {"": "UNAVAILABLE"}
        client.load_model("called")
        assert set(answers(server, "called")) == {(200, 1)}
    publish("called/2")
    client.load_model("called")  # what is new is served when the call is answered, however rarely one looks
    assert set(answers(server, "called")) == {(200, 2)}


def test_calls_that_cross_are_answered_as_they_ended(server, publish, client):
    served(server, publish, "crossed/1")
    paths = [f"{server.url}/v2/repository/models/crossed/{what}" for what in ("unload", "load")] * 6
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda path: httpx.post(path, timeout=60), paths))
    for answer in found:
        assert answer.status_code == 200 or "was unloaded again by a later call" in answer.json()["error"], answer.text
    client.load_model("crossed")
    assert set(answers(server, "crossed")) == {(200, 1)}


def test_a_worker_that_takes_a_dead_ones_place_knows_what_was_unloaded(server, publish, client):
    served(server, publish, "kept/1")
    client.unload_model("kept")
    opened = server.log.count("base:1: model.onnx")
    psutil.Process(server.process.pid).children()[0].kill()
    until(lambda: server.log.count("base:1: model.onnx") == opened + 1)
    assert set(answers(server, "kept")) == {(503, None)}
    client.load_model("kept")
    assert set(answers(server, "kept")) == {(200, 1)}


def test_what_cannot_be_loaded_is_said_and_what_is_served_stays(server, publish, client):
    with pytest.raises(InferenceServerException, match=r"\[404\] no model is called 'nobody'"):
        client.load_model("nobody")
    with pytest.raises(InferenceServerException, match=r"\[404\] no model is called 'nobody'"):
        client.unload_model("nobody")
    with pytest.raises(InferenceServerException, match=r"\[400\] there is no parameter 'config'"):
        client.load_model("base", config='{"max_batch_size": 3}')
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match=r"\[400\] 'base:1' names a version; a model is loaded and"):
            call("base:1")
    served(server, publish, "stays/1")
    publish("stays/2", damaged=True)
    with pytest.raises(InferenceServerException, match=r"\[409\] stays: .*2/model\.onnx"):
        client.load_model("stays")
    assert set(answers(server, "stays")) == {(200, 1)}


def test_a_directory_that_is_away_for_a_while_loses_nothing(server, root):
    away = root.with_name("away")
    root.rename(away)
    try:
        until(lambda: "is gone; what was loaded from it is still served" in server.log)
        assert set(answers(server, "base")) == {(200, 1)}
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        away.rename(root)


@pytest.mark.acceptance
def test_fifty_times_unloaded_and_loaded_takes_no_more_memory(lenet_artifact, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model="resnet18", size=64, channels=3)
    artifacts = Path(tmp_path / "artifacts")
    export_checkpoint(checkpoint, out=artifacts)
    with (
        running_server(artifacts, tmp_path / "log", workers=2, allow_loading=True, device="cpu") as server,
        InferenceServerClient(server.url.removeprefix("http://"), network_timeout=120) as client,
    ):
        (name,) = {row["name"] for row in client.get_model_repository_index()}

        def memory_mb():
            return [child.memory_info().rss / 1e6 for child in psutil.Process(server.process.pid).children()]

        loaded, unloaded = [], []
        for _ in range(50):
            client.unload_model(name)
            unloaded.append(memory_mb())
            client.load_model(name)
            answers(server, name, count=8)
            loaded.append(memory_mb())
        for worker in range(2):
            before, after = (median(row[worker] for row in part) for part in (loaded[5:15], loaded[-10:]))
            print(f"worker {worker}: unloaded {unloaded[-1][worker]:.0f}, loaded {before:.0f}, after 50 {after:.0f} MB")
            assert after < before + 20
            assert unloaded[-1][worker] < after - 40  # the weights alone are 45 MB
