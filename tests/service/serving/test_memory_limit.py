"""Under a memory limit models are loaded when they are asked for, and take turns."""

import asyncio
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from export.artifact.directory import file_entry
from export.artifact.manifest import ONNX_FILE, read_manifest
from export.pipeline.export import export_checkpoint
from service.errors import ModelNotReady
from service.serving.served_model import open_model
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded
from tests.real_server import running_server
from tests.service.serving.changed_artifacts import flip_byte, rename

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
    assert client.get("/v2/health/ready").status_code == 200
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


@pytest.fixture
def opened(monkeypatch):
    """The versions whose files were opened, in order."""
    labels = []

    def noted(directory, manifest, *given, **more):
        labels.append(f"{manifest.name}:{manifest.version}")
        return open_model(directory, manifest, *given, **more)

    monkeypatch.setattr("service.serving.version_catalog.open_model", noted)
    return labels


@pytest.fixture
def wrong_second(root, lenet_checkpoint, tmp_path_factory):
    """`first/2` with another network's file under its right hash: only its golden images tell. Gives what mends it."""
    second = rename(shutil.copytree(root / "first/1", root / "first/2"), name="first", version=2)
    right = (second / ONNX_FILE).read_bytes()
    folder = tmp_path_factory.mktemp("other")
    other = export_checkpoint(make_checkpoint(folder / "run", seed=1), out=folder / "out", formats=("onnx",))

    def put(content):
        (second / ONNX_FILE).write_bytes(content)
        entries = {**read_manifest(second).files, ONNX_FILE: file_entry(second / ONNX_FILE)}
        rename(second, files=entries)

    put((other / ONNX_FILE).read_bytes())
    return lambda: put(right)


def limited(root, limit_mb=1_000_000):
    catalog = VersionCatalog(read_settings(artifacts=root, device="cpu", memory_limit_mb=limit_mb))
    catalog.open()
    return catalog


def test_where_the_newest_turns_out_bad_the_one_before_it_answers_and_no_request_fails(root, wrong_second):
    client = client_for(root, memory_limit_mb=1_000_000)
    assert client.post("/v1/classify?model=first", content=encoded(digit())).json()["version"] == 1
    assert client.get("/v1/models").json()["failed"][0]["artifact"] == str(root / "first/2")
    asked = client.post("/v1/classify?model=first:2", content=encoded(digit()))
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_unknown")


def test_a_bad_one_does_not_come_back_until_its_files_change(root, wrong_second):
    async def look():
        catalog = limited(root)
        with pytest.raises(ModelNotReady, match="golden image"):
            await catalog.find("first:2")
        for _ in range(3):
            await catalog.refresh()
            assert (await catalog.find("first")).manifest.version == 1
        wrong_second()
        for _ in range(2):  # once to see that it has changed, once that it stays so
            await catalog.refresh()
        assert (await catalog.find("first")).manifest.version == 2 and catalog.failures == {}

    asyncio.run(look())


def test_a_flipped_byte_is_found_before_anything_is_asked_for(root):
    flip_byte(root / "first/1/model.onnx")
    catalog = limited(root)
    assert "model.onnx" in catalog.not_ready
    assert [entry.label for entry in catalog.entries()] == ["second:1", "third:1"]


@pytest.mark.parametrize("loaded", [True, False])
def test_a_version_that_is_damaged_where_it_lies_goes_on_being_served(root, loaded):
    async def look():
        catalog = limited(root)
        if loaded:
            await catalog.find("first")
        flip_byte(root / "first/1/model.onnx")
        for _ in range(3):
            await catalog.refresh()
        assert "model.onnx" in catalog.failures[str(root / "first/1")]
        return catalog

    catalog = asyncio.run(look())
    if loaded:
        assert asyncio.run(catalog.find("first")).manifest.version == 1


def test_what_did_not_fit_is_not_tried_again(root, opened):
    async def ask():
        catalog = limited(root, limit_mb=1)
        for _ in range(3):
            with pytest.raises(ModelNotReady, match="does not fit"):
                await catalog.find("first")

    asyncio.run(ask())
    # Once more when it was known how many images to run together; all of them when the worker starts.
    assert opened == ["first:1"] * 2 + ["second:1"] * 2 + ["third:1"] * 2


def test_a_worker_is_not_ready_if_a_model_does_not_fit(root):
    client = client_for(root, memory_limit_mb=1)
    ready = client.get("/v2/health/ready")
    assert ready.status_code == 503
    catalog = limited(root, limit_mb=1)
    for name in NAMES[:3]:
        assert f"{name}:1 does not fit: with it a worker takes" in catalog.not_ready
    assert "(CONVSCOPE_MEMORY_LIMIT_MB)" in catalog.not_ready and not catalog.was_ready


def test_one_that_fits_without_what_timing_it_took_is_served(root, monkeypatch):
    residents = iter([1] * len(NAMES[:3]) + [1, 1, 900, 1, 1])  # first it is asked whether each may not fit
    monkeypatch.setattr("service.serving.version_catalog.resident_mb", lambda: next(residents))

    async def ask():
        return await limited(root, limit_mb=500).find("first")

    assert asyncio.run(ask()).manifest.name == "first"


def test_requests_that_come_together_share_one_loading_and_survive_one_that_gives_up(root, opened):
    async def ask():
        catalog = VersionCatalog(read_settings(artifacts=root, device="cpu", memory_limit_mb=1_000_000))
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
