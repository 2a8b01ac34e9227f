"""The cores of a container, in a file tree as Linux shows it, and really under a restricted affinity."""

import os
import shutil
import subprocess
import sys

import pytest

from models import cores
from models.cores import available_cores, limit_openmp, restricted_cores

V1 = "4:memory:/a\n2:cpu,cpuacct:/docker/c1\n0::/\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


def tree(root, group, **files):
    """`proc` and `sys` with a control group and some of its files."""
    for name, content in {"proc/self/cgroup": group, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("1600000 100000", 8),
        ("20000 10000", 2),
        ("", 8),
    ],
)
def test_a_quota_counts_as_the_next_whole_number_of_cores(tmp_path, maximum, expected):
    root = tree(tmp_path, "0::/\n", **{"sys/fs/cgroup/cpu.max": f"{maximum}\n"})
    assert available_cores(root) == expected
    assert restricted_cores(root) == (expected if expected < 8 else 0)


def test_the_smallest_quota_of_the_groups_around_counts(tmp_path):
    files = {
        "sys/fs/cgroup/pod/cpu.max": "200000 100000",
        "sys/fs/cgroup/pod/one/cpu.max": "300000 100000",
        "sys/fs/cgroup/other/cpu.max": "100000 100000",
    }
    assert available_cores(tree(tmp_path, "0::/pod/one\n", **files)) == 2


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("folder", ["docker/c1/", ""])
@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3), ("30000", 1)])
def test_version_1_has_the_quota_in_two_files(tmp_path, mount, folder, quota, expected):
    where = f"sys/fs/cgroup/{mount}/{folder}"
    root = tree(tmp_path, V1, **{f"{where}cpu.cfs_quota_us": quota, f"{where}cpu.cfs_period_us": "100000"})
    assert available_cores(root) == expected


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    assert (available_cores(tmp_path), restricted_cores(tmp_path)) == (8, 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert (available_cores(tmp_path), restricted_cores(tmp_path)) == (2, 2)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert available_cores(tmp_path) == 8


def test_openmp_is_limited_by_a_quota_unless_it_is_already(tmp_path, monkeypatch):
    monkeypatch.setattr(cores.os, "environ", {})
    limit_openmp(tree(tmp_path / "none", "0::/\n"))
    assert cores.os.environ == {}
    root = tree(tmp_path, "0::/\n", **{"sys/fs/cgroup/cpu.max": "150000 100000"})
    limit_openmp(root)
    assert cores.os.environ == {"OMP_NUM_THREADS": "2"}
    cores.os.environ["OMP_NUM_THREADS"] = "5"
    limit_openmp(root)
    assert cores.os.environ == {"OMP_NUM_THREADS": "5"}


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_every_layer_takes_one_core_under_taskset():
    code = (
        "from models.cores import available_cores\n"
        "from training.data.options import SourceOptions\n"
        "from export.engines.machine import this_machine\n"
        "from service.settings import read_settings\n"
        "found = SourceOptions().worker_count, this_machine()['cores'], read_settings().threads_per_run\n"
        "print(available_cores(), *found)"
    )
    words = ["taskset", "-c", "0", sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1 1 1 1\n"
