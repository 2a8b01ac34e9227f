"""Workers take turns over the GPUs, as seen by a stand-in for the driver, which reads the environment as it starts."""

import ctypes
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from export.engines.cuda import count_gpus
from service.process.placement import VISIBLE, export_visible_gpus, select_gpu
from tests.in_process import digit, encoded
from tests.real_server import running_server, until

WORKERS = range(1, 6)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A libcuda.so.1 in a folder of its own."""
    if not (compiler := shutil.which("gcc")):
        pytest.skip("the stand-in for the driver needs gcc")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("fake_driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return library


@pytest.fixture
def new_driver_each_time(driver, tmp_path, monkeypatch):
    """Each question starts the driver anew, as in a process of its own."""
    load, number = ctypes.CDLL, itertools.count()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load(str(shutil.copy(driver, tmp_path / str(next(number))))))


def prepare(monkeypatch, gpus, visible):
    monkeypatch.setenv("FAKE_GPUS", str(gpus))
    monkeypatch.setenv(VISIBLE, "")  # so that what is written by the code under test is undone
    if visible is None:
        monkeypatch.delenv(VISIBLE)
    else:
        monkeypatch.setenv(VISIBLE, visible)


def placed(monkeypatch, device="auto"):
    """For each worker what it finds in the environment, and how many GPUs it is then shown."""
    export_visible_gpus(device)
    inherited, found = os.environ.get(VISIBLE), []
    for worker in WORKERS:
        select_gpu(worker, device)
        found.append((os.environ.get(VISIBLE), count_gpus()[0]))
        if inherited is not None:
            monkeypatch.setenv(VISIBLE, inherited)
    return found


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [
        (4, None, ["0", "1", "2", "3", "0"]),
        (1, None, [None] * 5),
        (4, "3,1", ["3", "1", "3", "1", "3"]),
        (4, " 3, 1,", ["3", "1", "3", "1", "3"]),
        (4, "2", ["2"] * 5),
        (4, "GPU-b,GPU-a", ["GPU-b", "GPU-a", "GPU-b", "GPU-a", "GPU-b"]),
        (1, "MIG-a,MIG-b,MIG-c", ["MIG-a", "MIG-b", "MIG-c", "MIG-a", "MIG-b"]),
        (2, "1,0,7,1", ["1", "0", "1", "0", "1"]),
        (2, "0,-1,1", ["0"] * 5),
    ],
)
def test_workers_take_turns_and_each_is_shown_one_gpu(new_driver_each_time, monkeypatch, gpus, visible, expected):
    prepare(monkeypatch, gpus, visible)
    assert placed(monkeypatch) == [(name, 1) for name in expected]


@pytest.mark.parametrize(("gpus", "visible"), [(0, None), (4, ""), (4, "-1"), (2, "7,1")])
def test_no_worker_finds_a_gpu_where_none_is_shown(new_driver_each_time, monkeypatch, gpus, visible):
    prepare(monkeypatch, gpus, visible)
    assert [count for _, count in placed(monkeypatch)] == [0] * 5


@pytest.mark.parametrize("visible", [None, "3,1", ""])
def test_the_device_cpu_leaves_the_environment_alone(new_driver_each_time, monkeypatch, visible):
    prepare(monkeypatch, 4, visible)
    assert {name for name, _ in placed(monkeypatch, "cpu")} == {visible}


def test_a_process_without_a_number_keeps_all_gpus(monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1")
    select_gpu(None, "auto")
    assert os.environ[VISIBLE] == "0,1"


def test_the_workers_of_a_server_start_the_driver_with_one_gpu_each(driver, lenet_artifact, tmp_path, monkeypatch):
    prepare(monkeypatch, 2, None)
    starts = tmp_path / "starts"
    monkeypatch.setenv("FAKE_DRIVER_LOG", str(starts))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{driver.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    with running_server(lenet_artifact, tmp_path / "log", workers=2, device="auto") as server:
        until(lambda: len(starts.read_text().splitlines()) >= 3)
        seen = dict(line.split() for line in starts.read_text().splitlines())
        workers = {str(child.pid) for child in psutil.Process(server.process.pid).children()}
        assert httpx.post(f"{server.url}/v1/classify", content=encoded(digit())).status_code == 200
    assert sorted(seen.pop(worker) for worker in workers) == ["0", "1"]
    assert seen == {str(server.process.pid): "unset"}
    assert "worker 1 is placed on GPU 0, one of 2" in server.log
    assert "worker 2 is placed on GPU 1, one of 2" in server.log
