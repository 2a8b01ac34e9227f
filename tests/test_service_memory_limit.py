"""Under a memory limit models are loaded when they are asked for, and take turns."""

import asyncio
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from conftest import make_checkpoint
from in_process import client_for, digit, encoded
from real_server import running_server
from test_service_catalog import flip_byte, rename

from export.pipeline import export_checkpoint
from service.catalog import Catalog
from service.errors import ModelNotReady
from service.settings import read_settings

NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")


@pytest.fixture
def root(lenet_artifact, tmp_path):
    for name in NAMES[:3]:
        rename(shutil.copytree(lenet_artifact, tmp_path / name / "1"), name=name, version=1)
    return tmp_path


def state(client):
    return {row["name"]: row["engine"] for row in client.get("/v1/models").json()["models"]}


def test_a_model_is_loaded_when_it_is_first_asked_for(root):
    client = client_for(root, memory_limit_mb=1_000_000)
    assert state(client) == {"first": None, "second": None, "third": None}
    assert client.get("/readyz").status_code != 503 and client.get("/v2/health/ready").status_code == 200
    assert client.get("/v1/models/second/graph").status_code == 200  # what the manifest knows takes no memory
    assert client.post("/v1/classify?model=second", content=encoded(digit())).status_code == 200
    assert state(client) == {"first": None, "second": "onnxruntime", "third": None}
    assert client.post("/v1/models/third/feature-maps?layers=conv1", content=encoded(digit())).status_code == 200
    assert state(client)["third"] == "onnxruntime"


def test_one_that_does_not_fit_alone_is_said_with_both_figures(root):
    client = client_for(root, memory_limit_mb=1)
    answer = client.post("/v1/classify?model=first", content=encoded(digit()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
    assert "first:1 does not fit: with it a worker takes" in answer.json()["error"]["message"]
    assert "and the limit is 1 MB" in answer.json()["error"]["message"]


def test_a_damaged_one_is_found_when_it_is_asked_for_and_then_listed(root):
    rename(shutil.copytree(root / "first/1", root / "first/2"), name="first", version=2)
    flip_byte(root / "first/2/model.onnx")
    client = client_for(root, memory_limit_mb=1_000_000)
    answer = client.post("/v1/classify?model=first", content=encoded(digit()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
    assert client.get("/v1/models").json()["failed"][0]["artifact"] == str(root / "first/2")
    assert client.post("/v1/classify?model=first", content=encoded(digit())).json()["version"] == 1


def test_a_damaged_one_does_not_come_back_until_its_files_change(root):
    rename(shutil.copytree(root / "first/1", root / "first/2"), name="first", version=2)
    flip_byte(root / "first/2/model.onnx")

    async def look():
        catalog = Catalog(read_settings(artifacts=root, device="cpu", memory_limit_mb=1_000_000))
        catalog.open()
        with pytest.raises(ModelNotReady, match=r"2/model\.onnx"):
            await catalog.find("first")
        for _ in range(3):
            await catalog.refresh()
            assert (await catalog.find("first")).manifest.version == 1
        flip_byte(root / "first/2/model.onnx")
        for _ in range(2):  # once to see that it has changed, once that it stays so
            await catalog.refresh()
        assert (await catalog.find("first")).manifest.version == 2 and catalog.failures == {}

    asyncio.run(look())


def test_requests_that_come_together_share_one_loading_and_survive_one_that_gives_up(root, monkeypatch):
    opened = []
    original = Catalog._opened
    monkeypatch.setattr(Catalog, "_opened", lambda self, entry: opened.append(entry.label) or original(self, entry))

    async def ask():
        catalog = Catalog(read_settings(artifacts=root, device="cpu", memory_limit_mb=1_000_000))
        catalog.open()
        waiting = [asyncio.create_task(catalog.find("second")) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert len({id(model) for model in found[1:]}) == 1
        with pytest.raises(ModelNotReady, match="was unloaded"):
            catalog.unloaded = frozenset({"second"})
            await catalog.find("second")

    asyncio.run(ask())
    assert opened == ["second:1"]


@pytest.mark.acceptance
def test_six_large_models_take_turns_within_the_limit_of_each_worker(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model="resnet18", size=64, channels=3)
    artifact = export_checkpoint(checkpoint, out=tmp_path / "made")
    for name in NAMES:
        rename(shutil.copytree(artifact, tmp_path / "artifacts" / name / "1"), name=name, version=1)
    with running_server(tmp_path / "artifacts", tmp_path / "base", workers=2, memory_limit_mb=10**6) as server:
        base_mb = max(child.memory_info().rss for child in psutil.Process(server.process.pid).children()) / 1e6
    limit_mb = round(base_mb + 350)  # two or three of them
    with running_server(tmp_path / "artifacts", tmp_path / "log", workers=2, memory_limit_mb=limit_mb) as server:
        highest = 0.0

        def ask(number):
            nonlocal highest
            name = NAMES[number * 7 % 6]
            answer = httpx.post(f"{server.url}/v1/classify?model={name}", content=encoded(digit()), timeout=60)
            workers = psutil.Process(server.process.pid).children()
            highest = max(highest, *(worker.memory_info().rss / 1e6 for worker in workers))
            return answer.status_code, answer.json().get("model") == name

        with ThreadPoolExecutor(2) as pool:
            assert Counter(pool.map(ask, range(30))) == {(200, True): 30}
        print(f"base {base_mb:.0f} MB, limit {limit_mb} MB, highest seen {highest:.0f} MB")
        assert "leaves the memory to make room for" in server.log
        assert highest < limit_mb + 150  # one is loaded before it is known what it takes
