import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest

from export.artifact.directory import file_entry
from export.artifact.manifest import ONNX_FILE, read_manifest
from export.pipeline.export import export_checkpoint
from service.serving.served_model import open_model
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded
from tests.service.serving.changed_artifacts import flip_byte, rename


@pytest.fixture
def root(lenet_artifact, tmp_path):
    """Two artifacts: `good` with versions 1 and 2, and `bad`, which tests damage."""
    for where in ("good/1", "good/2", "bad/1"):
        name, version = where.split("/")
        copy = shutil.copytree(lenet_artifact, tmp_path / where)
        rename(copy, name=name, version=int(version))
    return tmp_path


def opened(root, **settings):
    catalog = VersionCatalog(read_settings(artifacts=root, device="cpu", **settings))
    catalog.open()
    return catalog


def test_the_newest_version_answers_unless_one_is_asked_for(root):
    catalog = opened(root)
    assert catalog.not_ready is None
    assert catalog.entry("good").manifest.version == 2
    assert catalog.entry("good:1").manifest.version == 1
    assert catalog.entry("good", "1").manifest.version == 1


def test_versions_count_as_numbers_not_as_words(root):
    for version in (9, 10):
        rename(shutil.copytree(root / "good/1", root / f"good/{version}"), version=version)
    assert opened(root).entry("good").manifest.version == 10


def test_a_model_must_be_named_where_there_are_several(root):
    client = client_for(root)
    answer = client.post("/v1/classify", content=encoded(digit()))
    assert answer.status_code == 400
    assert "several models are served (bad, good); say model=NAME" in answer.json()["error"]["message"]
    assert client.post("/v1/classify?model=good:1", content=encoded(digit())).json()["version"] == 1


@pytest.mark.parametrize("file", ["model.onnx", "model.ts", "weights.safetensors", "golden.npz", "manifest.json"])
def test_a_flipped_byte_keeps_one_artifact_out_and_the_others_in(root, file):
    flip_byte(root / "bad/1" / file)
    catalog = opened(root)
    assert str(root / "bad/1" / file) in catalog.not_ready
    assert [model.manifest.name for model in catalog.models()] == ["good", "good"]
    client = client_for(root)
    assert client.post("/v1/classify", content=encoded(digit())).status_code == 200
    assert file in client.get("/v1/models").json()["failed"][0]["reason"]
    assert client.get("/v1/models/bad").status_code == 404


def test_another_network_under_right_hashes_fails_its_golden_images(root, lenet_checkpoint, tmp_path_factory):
    other = export_checkpoint(
        make_checkpoint(tmp_path_factory.mktemp("other") / "other", seed=1), out=tmp_path_factory.mktemp("out")
    )
    shutil.copyfile(other / ONNX_FILE, root / "bad/1" / ONNX_FILE)
    files = {**read_manifest(root / "bad/1").files, ONNX_FILE: file_entry(root / "bad/1" / ONNX_FILE)}
    rename(root / "bad/1", files=files)
    assert "golden image" in opened(root).not_ready


def test_nothing_to_serve_is_not_ready_and_answers_503(tmp_path):
    assert "no artifact in" in opened(tmp_path).not_ready
    answer = client_for(tmp_path).post("/v1/classify", content=encoded(digit()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")


def test_a_gpu_asked_for_and_not_there_is_said(root):
    from export.engines.cuda import cuda_unavailable_reason

    if cuda_unavailable_reason() is None:
        pytest.skip("this machine has a GPU")
    catalog = VersionCatalog(read_settings(artifacts=root, device="cuda"))
    catalog.open()
    assert "device is cuda, but there is no NVIDIA driver" in catalog.not_ready


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_so(root):
    from export.engines.cuda import cuda_unavailable_reason

    if cuda_unavailable_reason() is None:
        pytest.skip("this machine has a GPU")
    catalog = VersionCatalog(read_settings(artifacts=root, device="auto"))
    catalog.open()
    assert {model.engine.device for model in catalog.models()} == {"cpu"}


def test_two_folders_of_one_name_and_version_are_a_failure_that_names_both(root):
    shutil.copytree(root / "good/1", root / "copy/1")
    reason = opened(root).not_ready
    assert str(root / "good/1") in reason and str(root / "copy/1") in reason


@pytest.mark.parametrize("changes", [{"classes": ("a", "b")}, {"input": None}])
def test_an_artifact_that_cannot_run_its_golden_images_never_stops_a_worker(root, changes):
    if "input" in changes:  # the graph takes 28x28
        spec = read_manifest(root / "bad/1").input
        changes = {"input": dataclasses.replace(spec, height=32, width=32, resize=(32, 32))}
    rename(root / "bad/1", **changes)
    catalog = opened(root)
    assert str(root / "bad/1") in catalog.not_ready
    assert len(catalog.models()) == 2


def test_inspection_refuses_a_file_that_was_changed_after_loading(root):
    client = client_for(root)
    flip_byte(root / "good/2/model.onnx")
    answer = client.post("/v1/models/good/feature-maps?layers=conv1", content=encoded(digit()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
    assert "was changed since" in answer.json()["error"]["message"]
    assert client.post("/v1/classify?model=good", content=encoded(digit())).status_code == 200


def looked_at(catalog, times=3, **how):
    async def look():
        for _ in range(times):
            await catalog.refresh(**how)

    asyncio.run(look())
    return catalog


def test_files_that_come_and_go_beside_a_version_change_nothing(root, monkeypatch):
    catalog = opened(root)
    model = catalog.entry("good:1").model
    (root / "good/1/.#manifest.json").symlink_to("nobody@nowhere")  # as an editor that has it open leaves one
    assert looked_at(catalog).entry("good:1").model is model
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: [*iterdir(self), self / ".model.onnx.copied-and-renamed"])
    assert looked_at(catalog).entry("good:1").model is model
    assert catalog.failures == {}


def test_a_call_tries_again_what_failed_for_a_reason_outside_of_it(root, monkeypatch):
    attempts = []

    def fail_once(directory, manifest, *given, **more):
        attempts.append(f"{manifest.name}:{manifest.version}")
        if attempts.count("bad:1") == 1 and attempts[-1] == "bad:1":
            raise PermissionError("not yet")
        return open_model(directory, manifest, *given, **more)

    monkeypatch.setattr("service.serving.version_catalog.open_model", fail_once)
    catalog = opened(root)
    assert list(catalog.failures.values()) == ["not yet"]
    assert "not yet" in looked_at(catalog).not_ready and attempts.count("bad:1") == 1
    assert looked_at(catalog, 1, settled=False).not_ready is None
    assert attempts == ["bad:1", "good:1", "good:2", "bad:1"]


def test_what_is_unloaded_costs_nothing_while_nothing_changes(root, monkeypatch):
    collections = []
    monkeypatch.setattr("service.serving.version_catalog.give_back", lambda: collections.append(1))
    catalog = opened(root)
    catalog.unloaded = frozenset({"bad"})
    assert [entry.label for entry in looked_at(catalog, 10).entries()] == ["good:1", "good:2"]
    assert len(collections) == 1  # when it was let go


def test_the_only_artifact_failing_is_told_with_its_reason(root):
    catalog = opened(root / "bad/1")
    assert catalog.not_ready is None
    flip_byte(root / "bad/1" / ONNX_FILE)
    assert ONNX_FILE in opened(root / "bad/1").not_ready
