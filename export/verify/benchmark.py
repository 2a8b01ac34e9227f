"""Measures the speed of every file of an artifact on this machine: each in its own process, all in turns."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np

from export.artifact.formats import EngineName, GraphFormat
from export.engines.bench_record import Row, Timing
from export.engines.cuda import Device, cuda_unavailable_reason
from export.engines.machine import peak_memory_mb
from export.engines.protocol import Engine, EngineError
from export.engines.selection import open_file
from export.verify.speed import run_times
from models.images.decode import Pixels

ROUNDS = 3
WARM_UP_RUNS = 3  # per batch size and round
LEAST_RUNS = 5  # measured runs, likewise
T = TypeVar("T")


@dataclass
class _Candidate:
    form: GraphFormat
    device: Device
    pool: ProcessPoolExecutor
    seconds: dict[int, list[float]] = field(default_factory=dict)
    failed: str = ""

    def ask(self, function: Callable[..., T], *arguments: object) -> T | None:
        """The result of `function` in its process; None after a failure, which is recorded permanently."""
        if self.failed:
            return None
        try:
            return self.pool.submit(function, *arguments).result()
        except BrokenExecutor:
            self.failed = "its process died; the system's log may say that memory ran out"
        except Exception as error:  # engines raise arbitrary exceptions
            self.failed = (str(error) or repr(error)).splitlines()[0]
        return None

    def row(self) -> Row:
        """The results; must be read while the process is alive."""
        peak_mb = self.ask(peak_memory_mb)
        if peak_mb is None:
            return Row(form=self.form, device=self.device, failed=self.failed)
        timings = tuple(_timing(batch, seconds) for batch, seconds in self.seconds.items())
        return Row(form=self.form, device=self.device, timings=timings, memory_mb=peak_mb)


def benchmark(
    directory: Path,
    forms: Sequence[GraphFormat],
    images: Pixels,
    *,
    batches: Sequence[int],
    threads: int,
    seconds: float = 1.0,
    device: Device = "auto",
    report: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measures ways to run graph files; the rows are in their order, on the CPU first.

    Every file has its own process, so that its memory can be measured. The processes take turns, batch size by batch
    size and round by round, so that other load on the machine affects all of them equally.

    Args:
        directory: the artifact.
        forms: of its files; OpenVINO's are measured on the CPU only.
        images: uint8 (N, H, W, C), repeated to fill a batch.
        batches: batch sizes.
        threads: per run.
        seconds: for one file at one batch size, over all rounds, without warm-up.
        device: `auto` is the CPU, and also CUDA if available.
        report: called after each measurement, of which there are `measurements`.
    """
    with ExitStack() as stack:
        candidates = [_Candidate(form, where, stack.enter_context(_process())) for form, where in _tasks(forms, device)]
        for batch in batches:
            filled = images[np.resize(np.arange(len(images)), batch)]
            for _ in range(ROUNDS):
                for one in candidates:
                    opened = (one.form, directory / one.form.file, one.device, threads)
                    one.seconds.setdefault(batch, []).extend(one.ask(_measure, *opened, filled, seconds / ROUNDS) or ())
                    report()
        return [one.row() for one in candidates]


def devices(device: Device) -> tuple[Device, ...]:
    """The devices to measure on."""
    if device != "auto":
        return (device,)
    return ("cpu",) if cuda_unavailable_reason() else ("cpu", "cuda")


def measurements(forms: Sequence[GraphFormat], batches: Sequence[int], device: Device) -> int:
    """Number of reports that `benchmark` makes."""
    return len(_tasks(forms, device)) * len(batches) * ROUNDS


def _tasks(forms: Sequence[GraphFormat], device: Device) -> list[tuple[GraphFormat, Device]]:
    return [(form, where) for where in devices(device) for form in forms if form.engine != "openvino" or where == "cpu"]


def best_row(rows: Sequence[Row]) -> Row | None:
    """The fastest file that a server may run, on the server's default device; None if none runs."""
    usable = [
        row for row in rows if row.timings and row.device == rows[-1].device and row.form.engine in get_args(EngineName)
    ]
    return max(usable, key=lambda row: row.images_per_s, default=None)


def _timing(batch: int, seconds: list[float]) -> Timing:
    p50, p99 = np.percentile(seconds, (50, 99)).tolist()
    return Timing(batch=batch, images_per_s=batch / p50, p50_ms=1e3 * p50, p99_ms=1e3 * p99, runs=len(seconds))


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


# The functions below run in the process of a file.


@cache
def _engine(form: GraphFormat, path: Path, device: Device, threads: int) -> Engine:
    opened = open_file(form.engine, path, precision=form.precision, device=device, threads=threads)
    if opened.device != device:
        raise EngineError(f"asked for {device}, but it runs on {opened.device}")
    return opened


def _measure(
    form: GraphFormat, path: Path, device: Device, threads: int, images: Pixels, seconds: float
) -> list[float]:
    opened = _engine(form, path, device, threads)
    return run_times(opened.run, images, seconds=seconds, warm_up=WARM_UP_RUNS, least=LEAST_RUNS)
