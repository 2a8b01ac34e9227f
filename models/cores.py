"""The number of cores that this process may use: those of its affinity, within the CPU quota of its container."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_cores(root: Path = _ROOT) -> int:
    """Cores for threads and processes, at least 1; a quota of 1.5 cores counts as 2.

    Args:
        root: where `proc` and `sys` are.
    """
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in _quotas(root))]))


def restricted_cores(root: Path = _ROOT) -> int:
    """`available_cores` if it is less than the machine has, else 0, which leaves the choice to a library."""
    cores = available_cores(root)
    return cores if cores < (os.cpu_count() or 1) else 0


def limit_openmp(root: Path = _ROOT) -> None:
    """Sets OMP_NUM_THREADS, if unset, to a quota, which OpenMP ignores; call it before torch is imported."""
    if (cores := available_cores(root)) < _affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's control group and those around it, in cores.

    Source: Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us) of Linux.
    """
    for mount, group in _groups(root):
        # Inside a container the group's path may be the host's, and only the top be visible.
        for folder in dict.fromkeys([mount, *(mount / part for part in (group, *group.parents))]):
            try:
                if (maximum := folder / "cpu.max").exists():
                    quota, period = maximum.read_text().split()
                else:
                    quota = (folder / "cpu.cfs_quota_us").read_text()
                    period = (folder / "cpu.cfs_period_us").read_text()
                if quota != "max" and int(quota) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError, ZeroDivisionError):
                continue


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Where the groups that can have a quota are mounted, and the path of this process's group below."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if not controllers or "cpu" in names:
            for name in {"", controllers, "cpu"} if controllers else {""}:
                yield root / "sys/fs/cgroup" / name, Path(path.lstrip("/"))
