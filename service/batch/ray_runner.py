"""Runs a job on a Ray cluster: the driver lists shards, and gives each to a worker that writes its blocks itself."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from export.artifact.formats import EngineName
from export.engines.cuda import Device
from export.engines.protocol import DeviceLost
from models.errors import ConvscopeError, UserError
from service.batch.entries import Shard
from service.batch.job import Job, Request, Summary
from service.batch.network import Network, Opening
from service.batch.output import Record
from service.batch.ray_worker import Plan, Report, Task, Worker
from service.batch.sources.find import placed
from service.batch.sources.folder import KeysShard
from service.batch.sources.listing import ListedShard
from service.batch.storage import is_url

_ENGINES: dict[str, EngineName] = {  # by `Engine.name`
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "torchscript": "torchscript",
}
_TRIES = 5  # workers that may die in turn with the same shard, without a new block
_POLL_S = 1.0
_PATIENCE_S = 30.0  # without any worker, until that is reported


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster, and the part of it that a job takes.

    Attributes:
        address: of the cluster; that of `RAY_ADDRESS` or of the cluster on this machine if empty, or a new one here.
        num_cpus: CPUs of a worker; 0 for one, or for its share of the CPUs beside a GPU.
        num_gpus: GPUs of a worker, such as 1 or 0.25.
        concurrency: least and greatest number of workers; (0, 0) for as many as the cluster has room for.

    Raises:
        UserError: a number is out of its range.
    """

    address: str = ""
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    concurrency: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        least, most = self.concurrency
        if self.concurrency != (0, 0) and not 1 <= least <= most:
            raise UserError(f"--concurrency is {least},{most}; wanted N or MIN,MAX, each at least 1")
        for name, value in (("--num-cpus", self.num_cpus), ("--num-gpus", self.num_gpus)):
            if value < 0:
                raise UserError(f"{name} is {value}; it must be at least 0")
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise UserError(f"--num-gpus is {self.num_gpus}; above 1 it must be a whole number")


class WorkersDied(ConvscopeError):
    """Workers died in turn; the job stopped and can be resumed."""


def for_cluster(request: Request, cluster: Cluster) -> tuple[Request, Device]:
    """A request as the driver checks it, without a GPU and with absolute paths, and the device of the workers.

    Raises:
        UserError: the device does not fit the GPUs of a worker.
    """
    assert isinstance(request.opening, Opening), "a server runs where it is"
    device = request.opening.device
    if device == "cuda" and not cluster.num_gpus:
        raise UserError("--device cuda needs --num-gpus on a Ray cluster, for example 1, or 0.25 for a quarter")
    if device == "cpu" and cluster.num_gpus:
        raise UserError(f"--num-gpus is {cluster.num_gpus}, but --device is cpu")
    opening = replace(request.opening, artifact=request.opening.artifact.absolute(), device="cpu")
    out = request.out if is_url(request.out) else os.path.abspath(request.out)
    changed = replace(request, source=placed(request.source), out=out, opening=opening)
    return changed, "cuda" if cluster.num_gpus else "cpu"


def run_on_ray(job: Job, cluster: Cluster, device: Device, tell: Callable[[Record], None]) -> Summary:
    """Runs a job on a cluster.

    Args:
        job: of a request of `for_cluster`.
        device: of the workers.
        tell: see `Job.run`.

    Raises:
        WorkersDied, TooManyErrors, UserError, UnwritableError: the job stopped and can be resumed.
    """
    with connected(cluster) as ray, job.running(tell) as remark:
        cpus = cluster.num_cpus or _cpus_beside_gpu(ray.nodes(), cluster.num_gpus)
        least, most = cluster.concurrency if cluster.concurrency[0] else _room(ray.nodes(), cpus, cluster.num_gpus)
        needs = {"num_cpus": cpus, "num_gpus": cluster.num_gpus}
        plan = _plan_of(job, device, processes=max(1, int(cpus)))
        pool, seconds = Pool(ray, plan, needs, least, most), vars(job.summary.seconds)
        told: set[str] = set()
        try:
            for report in pool.run(_tasks(job, job.source.shards(remark, job.blocks.rows))):
                for name, value in vars(report.seconds).items():
                    seconds[name] += value
                if report.record is not None and report.record.name not in told:
                    told.add(report.record.name)
                    job.add(report.record, report.rows, tell)
        finally:
            pool.close()
    return job.summary


def check_installed() -> None:
    """Raises UserError if ray is not installed."""
    if find_spec("ray") is None:
        raise UserError('--engine ray needs the package ray; install it with pip install -e ".[ray]"')


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Connects to a cluster, or starts one on this machine; yields the module `ray`.

    Raises:
        UserError: ray is not installed, or the cluster does not answer.
    """
    check_installed()
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=cluster.address or None, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"the Ray cluster {cluster.address or 'here'} cannot be used: {error}") from None
    try:
        yield ray
    finally:
        if not was_connected:
            ray.shutdown()


@dataclass
class _Given:
    """A task, the number of workers that died with it, and the worker that has it."""

    task: Task
    deaths: int = 0


@dataclass(eq=False)
class _Hired:
    """A worker; `node` is empty until it is ready, `reads` is true while it reads a shard."""

    actor: Any
    node: str = ""
    reads: bool = False
    tasks: dict[Any, _Given] = field(default_factory=dict)


class Pool:
    """Workers. One that dies, or whose node does, is replaced, and its shards go to others.

    Args:
        ray: the module.
        plan: for each worker.
        needs: its resources, as Ray names them.
        least, most: numbers of workers; more than `least` are only asked for while shards wait.
    """

    def __init__(self, ray: Any, plan: Plan, needs: dict[str, float], least: int, most: int) -> None:
        self._ray, self._needs, self._least, self._most = ray, needs, least, most
        self._plan = ray.put(plan)
        # Three threads: a shard that is read, one whose last blocks are written, and one more while Ray ends a call.
        self._actor = ray.remote(Worker).options(max_restarts=0, max_concurrency=3, **needs)
        self._opening: dict[Any, _Hired] = {}
        self._ready: list[_Hired] = []
        self._waiting: deque[_Given] = deque()
        self._stillborn = 0

    def run(self, tasks: Iterator[Task]) -> Iterator[Report]:
        """Runs all tasks; yields reports as they come.

        Raises:
            WorkersDied: a task ended too many workers in turn.
            Exception: raised by a worker or by `tasks`.
        """
        heard = time.monotonic()
        while self._fill(tasks):
            working = {reports: hired for hired in self._ready for reports in hired.tasks}
            found, _ = self._ray.wait([*self._opening, *working], timeout=_POLL_S)
            if self._ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > _PATIENCE_S:
                heard = time.monotonic()
                self._warn(f"no worker has started for {_PATIENCE_S:.0f} s: {self._lacking()}")
            for one in found:
                if one in self._opening:
                    self._welcome(one)
                elif (report := self._report(working[one], one)) is not None:
                    yield report

    def close(self) -> None:
        """Ends all workers; what they have not recorded is lost."""
        for hired in (*self._opening.values(), *self._ready):
            self._end(hired)

    def _fill(self, tasks: Iterator[Task]) -> bool:
        """Gives tasks to workers that read none, and asks for more workers; returns False if nothing is left."""
        idle = [hired for hired in self._ready if not hired.reads]
        room = len(idle) + self._most - len(self._ready)
        while len(self._waiting) < room and (task := next(tasks, None)) is not None:
            self._waiting.append(_Given(task))
        for hired in sorted(idle, key=lambda hired: len(hired.tasks)):
            if self._waiting:
                given = self._waiting.popleft()
                hired.tasks[hired.actor.classify.options(num_returns="streaming").remote(given.task)] = given
                hired.reads = True
            elif not hired.tasks:  # the source has no more, so that the cluster may shrink
                self._ready.remove(hired)
                self._end(hired)
        limit = self._most if len(self._ready) >= self._least else self._least
        while len(self._opening) + len(self._ready) < limit and len(self._opening) < len(self._waiting):
            actor = self._actor.remote()
            self._opening[actor.open.remote(self._plan)] = _Hired(actor)
        return bool(self._waiting or any(hired.tasks for hired in self._ready))

    def _welcome(self, opened: Any) -> None:
        hired = self._opening.pop(opened)
        try:
            hired.node = self._ray.get(opened)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from error
        except self._ray.exceptions.RayError as error:
            self._end(hired)
            self._stillborn += 1
            if "ModuleNotFoundError" in str(error):
                missing = str(error).rpartition("ModuleNotFoundError: ")[2].strip()
                raise UserError(
                    f"a node of the cluster lacks convscope or a package it needs ({missing}); install the same "
                    f"version of convscope in the environment that Ray runs in, on all nodes"
                ) from error
            if self._stillborn == _TRIES:
                raise WorkersDied(
                    f"{_TRIES} workers died in turn before they were ready; the last one: {_reason(error)}"
                ) from error
            return
        self._stillborn = 0
        self._ready.append(hired)

    def _report(self, hired: _Hired, reports: Any) -> Report | None:
        """The next report of a task; None if there is none."""
        if reports not in hired.tasks:  # its worker died a moment ago
            return None
        try:
            report: Report = self._ray.get(next(reports))
        except StopIteration:
            del hired.tasks[reports]
            return None
        except self._ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, DeviceLost):
                raise _cause_of(error) from error
            self._lose(hired, error.cause)  # a new process may use the GPU again
            return None
        except self._ray.exceptions.RayError as error:
            self._lose(hired, error)
            return None
        if report.record is None:
            hired.reads = False
        else:
            hired.tasks[reports].deaths = 0
        return report

    def _lose(self, hired: _Hired, error: Exception) -> None:
        """Gives the tasks of a worker that died to others."""
        self._ready.remove(hired)
        self._end(hired)
        tasks, hired.tasks = hired.tasks, {}
        for given in tasks.values():
            given.deaths += 1
            number = given.task.number
            if given.deaths == _TRIES:
                raise WorkersDied(
                    f"{_TRIES} workers died in turn at shard {number}; the last one, on {hired.node}: "
                    f"{_reason(error)}; stopped, --resume goes on"
                ) from error
            given.task = replace(given.task, again=True)
            self._waiting.appendleft(given)
        numbers = ", ".join(str(given.task.number) for given in tasks.values())
        self._warn(f"a worker on {hired.node} died, shard {numbers} goes to another: {_reason(error)}")

    def _end(self, hired: _Hired) -> None:
        with suppress(Exception):  # it may be dead
            self._ray.kill(hired.actor)

    def _lacking(self) -> str:
        there = self._ray.cluster_resources()
        wanted = f"{self._needs['num_cpus']:g} CPUs and {self._needs['num_gpus']:g} GPUs"
        return f"each needs {wanted}, and the cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"

    def _warn(self, text: str) -> None:
        print(f"convscope: {text}", file=sys.stderr, flush=True)


def _tasks(job: Job, shards: Iterator[Shard]) -> Iterator[Task]:
    """A task for each shard, with what the journal knows about it.

    Raises:
        UserError: the source has fewer shards than before.
    """
    done: dict[int, dict[str, Record]] = {}
    for name, record in job.blocks.done.items():
        done.setdefault(record.shard, {})[name] = record
    for number, shard in enumerate(shards):
        found = done.pop(number, {})
        failed = {name: job.blocks.failed[name] for name in found if name in job.blocks.failed}
        yield Task(number=number, shard=shard, done=found, failed=failed, path=_path_in(shard))
    job.blocks.check_met({name for found in done.values() for name in found})


def _path_in(shard: Shard) -> str:
    """A local file of a shard that is there, if its name is known without reading anything; else empty."""
    path = getattr(shard, "place", None)
    if path is None and isinstance(shard, KeysShard | ListedShard):
        path = next(shard.entries(lambda position: False)).path
    return path if path is not None and not is_url(path) and os.path.lexists(path) else ""


def _plan_of(job: Job, device: Device, *, processes: int) -> Plan:
    request, network = job.request, job.network
    assert isinstance(request.opening, Opening) and isinstance(network, Network), "a server runs where it is"
    predictor = network.predictor
    engine = _ENGINES[predictor.engine.name]
    opening = replace(
        request.opening,
        artifact=Path(predictor.directory).absolute(),
        engine=engine,
        device=device,
        threads=request.opening.threads or processes,
    )
    return Plan(
        out=request.out,
        description=job.description,
        columns=job.columns,
        opening=opening,
        wanted=request.wanted,
        limit_pixels=request.limit_pixels,
        processes=request.processes or processes,
        complete=job.blocks.complete,
    )


def _cpus_beside_gpu(nodes: list[dict[str, Any]], num_gpus: float) -> float:
    """The CPUs that a worker may take so that all GPUs of every node find workers; 1 without GPUs."""
    there = [node["Resources"] for node in nodes if node["Alive"]] if num_gpus else []
    shares = [one.get("CPU", 1) * num_gpus / one["GPU"] for one in there if one.get("GPU", 0) >= num_gpus]
    return max(1.0, float(int(min(shares, default=1))))


def _room(nodes: list[dict[str, Any]], cpus: float, gpus: float) -> tuple[int, int]:
    """The number of workers that the nodes have room for, at least 1, as the least and the greatest number."""
    count = 0
    for one in (node["Resources"] for node in nodes if node["Alive"]):
        rooms = [one.get(name, 0) / wanted for name, wanted in (("CPU", cpus), ("GPU", gpus)) if wanted]
        count += int(min(rooms, default=1))
    return max(1, count), max(1, count)


def _cause_of(error: Any) -> BaseException:
    """An error of ours that a worker raised; Ray's own, with the worker's traceback, for any other."""
    return error.cause if isinstance(error.cause, ConvscopeError) else error


def _reason(error: Exception) -> str:
    """The part of Ray's message that names the cause."""
    last = str(error).strip().splitlines()[-1].partition(" Some common causes")[0]
    return (last.partition("Worker exit detail: ")[2] or last)[:300]
