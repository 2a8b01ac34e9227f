"""Artifacts in BentoML's model store; the store lies in a temporary BENTOML_HOME."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bentoml
import httpx
import numpy as np
import pytest
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml._internal.utils.analytics import usage_stats

from export.artifact.directory import locate, newest_version
from export.artifact.manifest import MANIFEST_FILE, ArtifactError, read_manifest
from export.artifact.store import find_in_store, register
from export.engines.selection import open_engine
from models.images.decode import decode_image
from service.process.server import environment, preflight
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.in_process import digit, encoded
from tests.real_server import free_port, running_server


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder of an empty store, which child processes use too."""
    models = tmp_path / "home/models"
    models.mkdir(parents=True)
    monkeypatch.setenv("BENTOML_HOME", str(models.parent))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "true")
    with BentoMLContainer.model_store.patch(ModelStore(models)):
        yield models


@pytest.fixture
def copy(lenet_artifact, tmp_path):
    """Makes copies of an artifact whose manifests say something else."""

    def make(**changes):
        folder = shutil.copytree(lenet_artifact, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}")
        manifest = replace(read_manifest(lenet_artifact), **changes)
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest.to_json()))
        return folder

    return make


def run_bentoml(*words):
    done = subprocess.run([sys.executable, "-m", "bentoml", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def convscope(*words):
    return subprocess.run([sys.executable, "-m", "convscope", *words], capture_output=True, text=True, timeout=120)


def contents(folder, names):
    return {name: (folder / name).read_bytes() for name in names}


def test_a_model_survives_bentomls_list_export_delete_and_import_and_is_served(store, lenet_artifact, tmp_path):
    assert register(lenet_artifact) == "lenet:1"
    (listed,) = json.loads(run_bentoml("models", "list", "-o", "json"))
    assert listed["tag"] == "lenet:1"
    run_bentoml("models", "export", "lenet:1", tmp_path / "lenet.bentomodel")
    run_bentoml("models", "delete", "-y", "lenet:1")
    assert json.loads(run_bentoml("models", "list", "-o", "json")) == []
    run_bentoml("models", "import", tmp_path / "lenet.bentomodel")

    manifest = read_manifest(lenet_artifact)
    names = (*manifest.files, MANIFEST_FILE)
    assert contents(find_in_store("lenet:1"), names) == contents(lenet_artifact, names)

    data = encoded(digit(3))
    wanted = open_engine(lenet_artifact, manifest, device="cpu").run(decode_image(data, manifest.input)[np.newaxis])
    with running_server(Path("bentoml:lenet:1"), tmp_path / "log") as server:
        answer = httpx.post(f"{server.url}/v1/classify?top_k=10", content=data).json()
    found = {row["index"]: row["probability"] for row in answer["results"][0]["predictions"]}
    assert (answer["model"], answer["version"]) == ("lenet", 1)
    np.testing.assert_allclose([found[index] for index in range(10)], wanted[0][0], atol=1e-6)


def test_labels_and_metadata_say_what_the_manifest_says_and_nothing_else_is_stored(store, copy):
    artifact = copy()
    (artifact / "custom_objects.pkl").write_bytes(b"")  # BentoML would unpickle it
    register(artifact)
    folder, manifest = store / "lenet/1", json.loads((artifact / MANIFEST_FILE).read_text())
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], MANIFEST_FILE, "model.yaml"}
    model = yaml.safe_load((folder / "model.yaml").read_text())
    assert model["labels"] == {"project": "convscope", "network": "lenet", "dataset": "digits"}
    assert model["module"] == "export.artifact.store"
    assert model["metadata"] == {
        "classes": manifest["classes"],
        "input": {"mode": "L", "height": 28, "width": 28},
        "temperature": manifest["temperature"],
        "accuracy": {"test": 0.5},
        "precisions": ["fp32"],
        "files": {name: (artifact / name).stat().st_size for name in manifest["files"]},
    }


def test_registering_posts_no_statistics(store, lenet_artifact, monkeypatch):
    posted = []
    monkeypatch.setattr(httpx, "post", lambda *args, **_: posted.append(args))
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")
    usage_stats.do_not_track.cache_clear()
    register(lenet_artifact)
    assert posted == []


def test_the_same_artifact_again_changes_nothing(store, copy):
    artifact = copy()
    register(artifact)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert register(artifact) == "lenet:1"
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_another_artifact_under_the_same_tag_is_refused_and_the_first_stays(store, copy):
    register(copy())
    before = (store / "lenet/1" / MANIFEST_FILE).read_bytes()
    with pytest.raises(ArtifactError, match=r"has another lenet:1, of other content.*bentoml models delete lenet:1"):
        register(copy(temperature=2.0))
    assert (store / "lenet/1" / MANIFEST_FILE).read_bytes() == before


def test_a_damaged_copy_in_the_store_is_found_when_registering_again(store, copy):
    artifact = copy()
    register(artifact)
    (store / "lenet/1/model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"damaged lenet:1: .*model\.onnx: sha256.*bentoml models delete"):
        register(artifact)


def test_a_damaged_artifact_is_not_registered(store, copy):
    artifact = copy()
    (artifact / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"model\.onnx: sha256"):
        register(artifact)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("name", ["LeNet", "lenet-", "x" * 64, "a."])
def test_a_name_that_cannot_be_a_tag_is_refused_not_changed(store, copy, name):
    with pytest.raises(ArtifactError, match=r"cannot be a model's name in BentoML's store.*--name"):
        register(copy(name=name))
    assert list(store.iterdir()) == []


def test_the_latest_is_the_one_registered_last_and_a_version_is_never_another_that_begins_alike(store, copy):
    for version in (12, 3):
        register(copy(version=version))
    assert find_in_store("lenet:12") == store / "lenet/12"
    assert find_in_store("lenet") == find_in_store("lenet:latest") == store / "lenet/3"
    with pytest.raises(ArtifactError, match=r"'bentoml:lenet:1' is not in .*artifacts there: lenet:12, lenet:3"):
        find_in_store("lenet:1")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("resnet", r"'bentoml:resnet' is not in BentoML's model store; artifacts there: lenet:1"),
        ("resnet:latest", r"'bentoml:resnet:latest' is not in .*artifacts there: lenet:1"),
        ("lenet:2", r"'bentoml:lenet:2' is not in .*artifacts there: lenet:1"),
        ("stranger:1", r"is no artifact: no manifest\.json in .*stranger.*artifacts there: lenet:1$"),
        ("torn:1", r"'bentoml:torn:1': .*model\.yaml"),
        ("odd:1", r"'bentoml:odd:1': "),
        ("", r"'bentoml:': .*not a valid BentoML tag"),
        ("lenet:", r"'bentoml:lenet:': .*trailing ':'"),
        ("lenet:1:2", r"'bentoml:lenet:1:2': Invalid Tag"),
        ("../models", r"not a valid BentoML tag"),
        ("lenet:../../1", r"Invalid Tag"),
    ],
)
def test_a_tag_that_means_no_artifact_says_why_in_one_line(store, lenet_artifact, tag, message):
    register(lenet_artifact)
    with bentoml.models.create("stranger:1") as model:
        Path(model.path_of("weights.bin")).write_bytes(b"1")
    if tag == "torn:1":  # of a process that was killed
        (store / "torn/1").mkdir(parents=True)
    if tag == "odd:1":
        (store / "odd/1").mkdir(parents=True)
        (store / "odd/1/model.yaml").write_text("name: [\n")
    with pytest.raises(ArtifactError, match=message) as caught:
        newest_version(Path(f"bentoml:{tag}"))
    assert "\n" not in str(caught.value)


def test_a_torn_model_does_not_hide_which_one_was_asked_for(store, lenet_artifact):
    register(lenet_artifact)
    (store / "torn/1").mkdir(parents=True)
    assert find_in_store("lenet:1") == store / "lenet/1"
    with pytest.raises(ArtifactError, match=r"'bentoml:lenet:2' is not in .*unknown, as it cannot be listed"):
        find_in_store("lenet:2")


def test_a_path_that_is_no_tag_is_left_alone_and_needs_no_bentoml(lenet_artifact):
    assert locate(lenet_artifact) == lenet_artifact
    code = f"""
import sys
from pathlib import Path
import export.cli.commands
from export.artifact.directory import newest_version
newest_version(Path({str(lenet_artifact)!r}))
sys.exit("bentoml" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_worker_finds_its_artifact_by_tag_or_is_unready_and_says_why(store, lenet_artifact):
    register(lenet_artifact)
    for tag, reason in (("lenet:1", None), ("lenet:2", "'bentoml:lenet:2' is not in BentoML's model store")):
        catalog = VersionCatalog(read_settings(artifacts=f"bentoml:{tag}", device="cpu"))
        catalog.open()
        assert reason in catalog.not_ready if reason else catalog.not_ready is None


def test_a_server_gets_the_very_version_that_was_checked(store, copy):
    for version in (2, 1):
        register(copy(version=version))
    settings = read_settings(artifacts="bentoml:lenet", port=free_port())
    (manifest,) = preflight(settings)
    assert manifest.version == 1
    assert environment(settings)["CONVSCOPE_ARTIFACTS"] == str(store / "lenet/1")


@pytest.mark.parametrize("verb", [["serve"], ["classify", "x.png", "--artifact"]])
def test_the_verbs_refuse_an_unknown_tag_in_one_line(store, verb):
    done = convscope(*verb, "bentoml:lenet:1")
    assert done.returncode == 1, done.stderr
    assert done.stderr == "convscope: 'bentoml:lenet:1' is not in BentoML's model store; artifacts there: none\n"


def test_a_damaged_model_of_the_store_is_not_served(store, lenet_artifact):
    register(lenet_artifact)
    (store / "lenet/1/model.onnx").write_bytes(b"damaged")
    done = convscope("serve", "bentoml:lenet:1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(store / "lenet/1/model.onnx") in done.stderr
