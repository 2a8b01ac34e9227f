"""What `bentoml build` makes: what is in it, its Dockerfile, its requirements, and that it answers."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import httpx
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from service.process.server import wait_until_ready
from tests.in_process import digit, encoded
from tests.real_server import free_port, stop

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("models", "export", "service")
GPU_PACKAGE, CPU_PACKAGE = "onnxruntime-gpu[cuda,cudnn]>=1.24", "onnxruntime>=1.24"
NOT_IMPORTED = {"httptools", "uvloop", "python-multipart"}  # uvicorn takes the first two, starlette's forms the third
OF_NO_BENTO = (  # what lies in a checkout too
    "artifacts/lenet/.staging-2/model.onnx",
    "artifacts/lenet/notes.txt",
    "runs/lenet/model.safetensors",
    "data/MNIST/raw/train-images",
    "docs/service/app.py",
    ".git/config",
    ".venv/lib/models/lenet.py",
    "service/__pycache__/app.pyc",
)


def make_checkout(folder, artifact):
    """A copy of this checkout with one artifact, and with much that belongs into no Bento."""
    for name in (*PACKAGES, "training", "tests", "benchmarks", "docs"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in CHECKOUT.glob("[!.]*.*"):
        if file.is_file():
            shutil.copy(file, folder)
    shutil.copytree(artifact, folder / "artifacts/lenet/1")
    for name in OF_NO_BENTO:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    return folder


@pytest.fixture(scope="module")
def bento(lenet_artifact, tmp_path_factory):
    """The Bento of bentofile.yaml; what it was made from is gone."""
    checkout = make_checkout(tmp_path_factory.mktemp("build") / "checkout", lenet_artifact)
    built = build(checkout, "bentofile.yaml")
    shutil.rmtree(checkout)
    return built


def build(checkout, file):
    """Builds into a store beside the checkout; returns the Bento's folder `<home>/bentos/<name>/<version>`."""
    home = checkout.parent / "home"
    words = [sys.executable, "-m", "bentoml", "build", "-f", file, "--output", "tag"]
    done = subprocess.run(words, cwd=checkout, env=environment(home), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return home / "bentos" / done.stdout.strip().removeprefix("__tag__:").replace(":", "/")


def environment(home):
    return {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}


@contextmanager
def serving(python, what, *, cwd, home, log):
    """`bentoml serve` of a Bento, ready; yields its URL."""
    port = free_port()
    words = [python, "-m", "bentoml", "serve", what, "--port", str(port), "--host", "127.0.0.1"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=cwd, env=environment(home), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, timeout_s=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def requirements(bento):
    return [Requirement(line) for line in (bento / "env/python/requirements.txt").read_text().split()]


def assert_answers_as(url, artifact):
    data, manifest = encoded(digit(3)), read_manifest(artifact)
    answer = httpx.post(f"{url}/v1/classify?top_k=10", content=data).json()
    assert (answer["model"], answer["version"]) == (manifest.name, manifest.version)
    found = {row["index"]: row["probability"] for row in answer["results"][0]["predictions"]}
    engine = open_engine(artifact, manifest, device="cpu")
    wanted, _ = engine.run(decode_image(data, manifest.input)[np.newaxis])
    np.testing.assert_allclose([found[index] for index in range(10)], wanted[0], atol=1e-6)


def test_a_bento_holds_three_packages_the_page_and_the_artifacts_and_nothing_else(bento, lenet_artifact):
    wanted = {str(path.relative_to(CHECKOUT)) for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")}
    page = [path for path in (CHECKOUT / "service/page").rglob("*") if path.suffix in (".html", ".css", ".js")]
    wanted |= {str(path.relative_to(CHECKOUT)) for path in page}
    wanted |= {f"artifacts/lenet/1/{path.name}" for path in lenet_artifact.iterdir()}
    assert files_in(bento / "src") == {*wanted, "bentofile.yaml"}
    around = {"README.md", "bento.yaml", "apis/openapi.yaml", "apis/schema.json", "env/docker/Dockerfile"}
    around |= {"env/docker/entrypoint.sh", "env/python/requirements.in", "env/python/requirements.txt"}
    assert {name for name in files_in(bento) if not name.startswith("src/")} == around


@pytest.fixture(scope="module")
def reached():
    """What the server imports, at once or later, by grimp: our modules in full, of others the package."""
    graph = grimp.build_graph(*PACKAGES, "training", include_external_packages=True, cache_dir=None)
    return graph.find_upstream_modules("service.app")


def test_a_bento_holds_every_module_the_server_can_come_to_import(bento, reached):
    ours = {name for name in reached if name.split(".")[0] in (*PACKAGES, "training")}
    assert {"service.serving.batcher", "export.engines.torch", "export.artifact.store"} <= ours
    there = files_in(bento / "src")
    files = {name: (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py") for name in ours}
    assert [name for name, places in files.items() if not there & set(places)] == []


def test_a_bento_requires_what_the_server_imports_and_no_torch(bento, reached):
    distributions = packages_distributions()
    with_torch = {"torch", "torchvision", "safetensors", "openvino"}  # if engines or gradients are asked for
    imported = {name for package in reached - with_torch for name in distributions.get(package, [])}
    brought = {"pydantic", *distributions["opentelemetry"], *distributions["circus"]}  # by pydantic-settings, bentoml
    assert {requirement.name for requirement in requirements(bento)} == (imported - brought) | NOT_IMPORTED


@pytest.mark.parametrize("file", ["bentofile.yaml", "bentofile.cpu.yaml"])
def test_a_bento_has_the_floors_of_the_project(file):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = {line.partition(";")[0] for line in (*project, CPU_PACKAGE)}
    assert set(build_file(file)["python"]["packages"]) <= floors


def build_file(name):
    return yaml.safe_load((CHECKOUT / name).read_text())


def test_the_cpu_bento_differs_in_the_runtime_alone():
    gpu, cpu = build_file("bentofile.yaml"), build_file("bentofile.cpu.yaml")
    gpu["python"]["packages"].remove(GPU_PACKAGE)
    cpu["python"]["packages"].remove(CPU_PACKAGE)
    assert gpu == cpu


def test_the_dockerfile_is_for_a_plain_python_and_an_unprivileged_user(bento):
    text = (bento / "env/docker/Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)", text, re.MULTILINE) == ["python:3.11-slim AS base-container"]
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["bentoml"]
    assert re.findall(r"^EXPOSE (.*)", text, re.MULTILINE)[0] == "3000"
    assert re.findall(r'^ENTRYPOINT \[ "(.*)" \]', text, re.MULTILINE) == [
        "/home/bentoml/bento/env/docker/entrypoint.sh"
    ]
    assert "ARG BENTOML_DO_NOT_TRACK=true\nENV BENTOML_DO_NOT_TRACK=$BENTOML_DO_NOT_TRACK\n" in text.replace(
        "\n\n", "\n"
    )
    assert "pip install -r $BENTO_PATH/env/python/requirements.txt" in text
    assert not re.search("cuda|nvidia|conda", text)  # CUDA comes with the Python packages
    assert yaml.safe_load((bento / "src/bentofile.yaml").read_text())["docker"]["cuda_version"] is None


def test_a_built_bento_answers_with_the_artifact_inside_it(bento, lenet_artifact, tmp_path):
    tag, home = ":".join(bento.parts[-2:]), bento.parents[2]
    with serving(sys.executable, tag, cwd=tmp_path, home=home, log=tmp_path / "log") as url:
        assert_answers_as(url, lenet_artifact)
        assert httpx.get(f"{url}/").status_code == 200


@pytest.mark.acceptance
def test_a_cpu_bento_answers_in_an_environment_of_its_own_requirements(lenet_artifact, tmp_path):
    bento = build(make_checkout(tmp_path / "checkout", lenet_artifact), "bentofile.cpu.yaml")
    python = tmp_path / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True, timeout=200)
    listed = ["-r", bento / "env/python/requirements.txt", "-c", CHECKOUT / "constraints.txt"]
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *listed], stderr=subprocess.PIPE, text=True)
    if installed.returncode and "CI" not in os.environ:
        pytest.skip(f"packages cannot be installed here: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    packages = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format", "json"]))
    assert not {package["name"] for package in packages} & {"torch", "torchvision", "onnxruntime-gpu", "convscope"}
    with serving(python, ".", cwd=bento, home=tmp_path / "home", log=tmp_path / "log") as url:
        assert_answers_as(url, lenet_artifact)
        maps = httpx.post(f"{url}/v1/models/lenet/feature-maps?layers=conv1", content=encoded(digit()))
        assert maps.status_code == 200, maps.text
