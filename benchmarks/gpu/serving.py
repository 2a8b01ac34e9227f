"""Section (a): the real server on the device, by workers and connections, compared with its parts alone."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.decoding import decoding_rate
from benchmarks.gpu.cases import FILES, JPEG, PNG, Case, cases
from benchmarks.gpu.engine_alone import EngineProcess
from benchmarks.gpu.host import Utilisation, gpu_used_mb
from benchmarks.gpu.load import load
from benchmarks.gpu.networks import Artifacts, artifacts, files_for, input_of, pixels_for, precisions_for
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Budget, Cell, Report, last_line
from benchmarks.gpu.server import HOST, Server, problems_in, serving
from export.artifact.formats import Precision

COLUMNS = (
    *("workers", "precision", "network", "body", "connections", "requests/s", "images/s", "p50 ms", "p99 ms"),
    *("errors", "429", "mean batch", "GPU busy", "server's cores", "of its busiest process", "load's cores"),
    *("engine alone images/s", "share of it", "decoding alone images/s", "share of it", "bound by"),
)
_START_S = 30.0  # a server's start, estimated
_CASE_S = 3.0
_SECONDS, _WARM_UP_S = 1.2, 0.3
_STALE_S = 1.1  # until every worker reports the counts of all
_NEAR = 0.6  # a row that reaches this share of a ceiling is bound by it


@dataclass(frozen=True)
class Configuration:
    """One server configuration and its numbers of connections."""

    workers: int
    precision: Precision
    connections: tuple[int, ...]


@dataclass
class Ceilings:
    """Images per second of parts alone: the engine by network and precision, decoding by body."""

    engine: dict[tuple[str, str], float] = field(default_factory=dict)
    decoding: dict[str, float] = field(default_factory=dict)


def run(report: Report, budget: Budget, options: Options) -> None:
    """Starts a server for each configuration, and puts every case under load."""
    made, ceilings = _prepare(report, options)
    asked = list(cases(made.made))
    plan = list(_configurations(options, _served(report, made, precisions_for(options))))
    folder = next(iter(made.made.values())).parent.parent
    report.section(f"Serving by TorchScript on {options.device}", COLUMNS)
    for one in plan:
        name = f"{one.workers} workers, {one.precision}"
        if not budget.enough(_START_S):
            report.skipped(name, budget)
            continue
        log = options.work / f"serving-{one.workers}-{one.precision}.log"
        settings = {"engine": "torchscript", "device": options.device, "precision": one.precision}
        try:
            with serving(folder, log, timeout_s=budget.left_s, workers=one.workers, **settings) as server:
                _measure(report, budget, options, server, one, asked, ceilings)
                memory = f"{server.resident_mb():,.0f} MB resident in all processes, {_gpu_memory()}"
                report.note(f"{name}: ready after {server.ready_s:.1f} s; {memory}")
        except Exception as error:  # a server that does not start, or ends; the next one is still measured
            report.error(one.workers, one.precision, error=error)
        if problems := problems_in(log):
            report.note(f"{name}: {len(problems)} warnings or errors in the log, the last: {problems[-1]}")


def _served(report: Report, made: Artifacts, precisions: tuple[Precision, ...]) -> Precision:
    """The last precision for which every network has a file."""
    for precision in reversed(precisions):
        if not (lacking := made.lacking(precision)):
            return precision
        report.note(f"{precision} is not served: {'; '.join(f'{name}: {why}' for name, why in lacking.items())}")
    raise RuntimeError("no precision is there for all networks")


def _configurations(options: Options, best: Precision) -> Iterator[Configuration]:
    """Measures one connection with one worker only: further workers cannot help it."""
    if options.quick:
        yield Configuration(1, best, (32, 1))
        yield Configuration(2, best, (32,))
        return
    yield Configuration(1, best, (32, 1))
    yield Configuration(4, best, (256,))
    yield Configuration(8, best, (256,))
    if best != "fp32":
        yield Configuration(4, "fp32", (256,))


def _prepare(report: Report, options: Options) -> tuple[Artifacts, Ceilings]:
    """Artifacts, and the rates of the parts of serving alone."""
    networks = ("lenet", "resnet18") if options.quick else ("lenet", "resnet18", "resnet50")
    cores, ceilings, precisions = len(os.sched_getaffinity(0)), Ceilings(), precisions_for(options)
    report.section("Parts of serving alone", ("part", "images/s", "at batch", "seconds to measure"))
    with _timed() as taken:
        made = artifacts(networks, options.work, precisions)
    report.row(f"checkpoints and artifacts of {', '.join(made.made)}", None, None, taken[0])
    for network, why in made.failed.items():
        report.row(f"artifact of {network}", f"failed: {why}")
    for network, body in (("lenet", PNG), ("resnet18", JPEG)):
        with _timed() as taken:
            rate = decoding_rate(files_for(network, FILES), input_of(network), cores=cores, seconds=0.7)
        ceilings.decoding[body] = rate
        report.row(f"decoding, {body}, {cores} processes", rate, None, taken[0])
    with EngineProcess(options) as alone:
        for precision, (network, artifact) in itertools.product(reversed(precisions), made.made.items()):
            name = f"engine, {network}, {precision}"
            try:
                with _timed() as taken:
                    best = alone.measure(artifact, pixels_for(network, 32), precision)
            except Exception as error:  # engines raise arbitrary exceptions
                report.row(name, f"failed: {last_line(error)}")
                continue
            ceilings.engine[network, precision] = best.images_per_s
            report.row(name, best.images_per_s, best.batch, taken[0])
    return made, ceilings


def _measure(
    report: Report,
    budget: Budget,
    options: Options,
    server: Server,
    configuration: Configuration,
    asked: list[Case],
    ceilings: Ceilings,
) -> None:
    previous = ""
    for connections in configuration.connections:
        for case in asked:
            if not budget.enough(_CASE_S):
                report.skipped(f"{connections} connections, {case.name}", budget)
                continue
            if case.artifact == previous and configuration.workers > 1:
                time.sleep(_STALE_S)
            previous = case.artifact
            head = (configuration.workers, configuration.precision, case.network, case.body, connections)
            engine = ceilings.engine.get((case.network, configuration.precision))
            try:
                report.row(*head, *_row(server, case, connections, options, engine, ceilings.decoding.get(case.body)))
            except Exception as error:  # lost connections, or a metrics page that does not answer
                report.error(*head, error=error)


def _row(
    server: Server, case: Case, connections: int, options: Options, engine: float | None, decoding: float | None
) -> tuple[Cell, ...]:
    cores = len(os.sched_getaffinity(0))
    images, batches = server.batches().get(case.artifact, (0.0, 0.0))
    cpu_s = server.cpu_s()
    with Utilisation() as gpu:
        found = load(
            HOST,
            server.port,
            case.messages,
            connections=connections,
            seconds=_SECONDS,
            processes=max(1, cores // 4),
            warm_up_s=_WARM_UP_S,
            images_per_request=case.images,
        )
    elapsed = _WARM_UP_S + _SECONDS  # it is idle before and after
    cpu = [after - cpu_s.get(pid, 0.0) for pid, after in server.cpu_s().items()]
    images_after, batches_after = server.batches().get(case.artifact, (0.0, 0.0))
    mean = (images_after - images) / max(1.0, batches_after - batches)
    rate = found.images_per_s
    shares = {"engine": rate / engine if engine else None, "decoding": rate / decoding if decoding else None}
    return (
        *(found.requests_per_s, rate, found.p50_ms, found.p99_ms, found.errors, found.busy, mean, gpu.mean),
        *(sum(cpu) / elapsed, max(cpu, default=0.0) / elapsed, found.cores),
        *(engine, shares["engine"], decoding, shares["decoding"], bound_by(shares)),
    )


def bound_by(shares: dict[str, float | None]) -> str:
    """The part whose own rate the server comes closest to, or neither if every share is below 60 %."""
    known = {part: share for part, share in shares.items() if share is not None}
    if not known:
        return "unknown"
    nearest = max(known, key=lambda part: known[part])
    return nearest if known[nearest] >= _NEAR else "neither"


def _gpu_memory() -> str:
    used = gpu_used_mb()
    return "no GPU" if used is None else f"{used:,.0f} MB in use on the GPU"


@contextmanager
def _timed() -> Iterator[list[float]]:
    """A list that holds the block's seconds once it is over."""
    taken, began = [0.0], time.perf_counter()
    try:
        yield taken
    finally:
        taken[0] = time.perf_counter() - began
