"""Triton's own server loads what export writes, and docs/deploy.md's client gets the trained network's answers.

The server is NVIDIA's, from the package nvidia-pytriton, which has no ONNX Runtime backend. So that is put in as a
backend in Python. What is tested is what Triton makes of the repository: its configuration, versions, batching, labels.
"""

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.writers.triton import write_triton
from service.process.server import wait_until_ready
from tests.docs.deploy_page import PROGRAMS, Deployed
from tests.real_server import free_port, stop

pytestmark = pytest.mark.acceptance
PACKAGE = "nvidia-pytriton==0.7.0"
# Arrays go through DLPack: the bindings of this server were built for NumPy 1 and misread the arrays of NumPy 2.
BACKEND = f"""
import sys
sys.path[:0] = {[path for path in sys.path if "site-packages" in path]!r}
import numpy
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, about):
        file = f"{{about['model_repository']}}/{{about['model_version']}}/model.onnx"
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        image = numpy.from_dlpack(triton.get_input_tensor_by_name(request, "image"))
        outputs = zip(("probabilities", "logits"), self.session.run(["probabilities", "logits"], {{"image": image}}))
        return triton.InferenceResponse([triton.Tensor.from_dlpack(*output) for output in outputs])
"""


@pytest.fixture(scope="module")
def package(request: pytest.FixtureRequest) -> Path:
    """The server's files; pytest's cache keeps them."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if platform.machine() != "x86_64" or ctypes.util.find_library(python) is None:
        pytest.skip(f"Triton's Python backend needs Linux on x86-64 and lib{python}.so")
    folder = request.config.cache.mkdir(PACKAGE) / "site"
    if not folder.exists():
        words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def address(package: Path, deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, ports = tmp_path_factory.mktemp("triton"), [free_port() for _ in range(3)]
    write_triton(deployed.artifact, folder / "triton")
    server, libraries = package / "pytriton/tritonserver", package / "nvidia_pytriton.libs"
    shutil.copytree(server / "backends/python", folder / "backends/python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(server / f"python_backend_stubs/{version}/triton_python_backend_stub", folder / "backends/python")
    (folder / "backends/onnxruntime").mkdir()
    (folder / "backends/onnxruntime/model.py").write_text(BACKEND)
    words = [
        *(str(server / "bin/tritonserver"), "--model-repository", str(folder / "triton")),
        *("--backend-directory", str(folder / "backends"), "--http-address", "127.0.0.1", "--http-port", str(ports[0])),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(ports[1]), "--metrics-port", str(ports[2])),
    ]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{ports[0]}", process, timeout_s=120, path="/v2/health/ready")
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        stop(process)


def test_the_answers_are_the_trained_networks(deployed: Deployed, address: str, tmp_path: Path) -> None:
    (tmp_path / "classify_triton.py").write_text(PROGRAMS["classify_triton.py"])
    words = [sys.executable, "-I", "classify_triton.py", address, str(deployed.artifact / "manifest.json")]
    done = subprocess.run([*words, *map(str, deployed.paths)], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in found] == [str(path) for path in deployed.paths]
    deployed.check([row[1] for row in found], [float(row[2]) for row in found])
