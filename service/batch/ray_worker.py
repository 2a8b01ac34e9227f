"""A worker on a Ray cluster: takes shards, writes their blocks and records, and reports them."""

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from models.errors import UserError
from service.batch.blocks import Blocks
from service.batch.entries import Batch, Shard, shard_of
from service.batch.local import Pipeline, Seconds, Work
from service.batch.network import Network, Opening, Wanted
from service.batch.output import Output, Record
from service.batch.rows import Columns


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a worker has to know of a job; can be pickled.

    Attributes:
        out: absolute path or URL of the output.
        description: of the job, as in its `job.json`.
        columns: of the rows.
        opening, wanted, limit_pixels: see `service.batch.job.Request`.
        processes: that decode.
        complete: true if the journal had all blocks of the source.
    """

    out: str
    description: dict[str, Any]
    columns: Columns
    opening: Opening
    wanted: Wanted
    limit_pixels: int
    processes: int
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Task:
    """A shard, and what the journal knew about it when the job began.

    Attributes:
        number: of the shard in its source.
        done, failed: see `Blocks`.
        path: a local file of the shard that the driver has seen; empty if there is none.
        again: true if a worker died of it or with it, so that there may be further records.
    """

    number: int
    shard: Shard
    done: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    path: str = ""
    again: bool = False


@dataclass(frozen=True)
class Report:
    """News of a shard.

    Attributes:
        record: of a block that is done; None if the shard has been read, so that the next one can be sent.
        rows: of the block that ran.
        seconds: of the stages since the worker's last report.
    """

    record: Record | None
    rows: int = 0
    seconds: Seconds = field(default_factory=Seconds)


class Worker:
    """The Ray actor. `classify` may be called while the last blocks of another shard are on their way."""

    def open(self, plan: Plan) -> str:
        """Opens the artifact and starts to wait for shards; returns the node's name.

        Raises:
            UserError: the node does not see the same files as the driver.
            ArtifactError, EngineError: see `Network`.
        """
        node = socket.gethostname()
        _check_there(str(plan.opening.artifact))
        self._plan, self._output = plan, Output(plan.out, plan.description, plan.columns.top_k)
        if self._output.job() is None:
            raise UserError(f"the node {node} does not see {plan.out}; wanted a path that all nodes share, or a URL")
        network = Network(plan.opening, plan.wanted)
        found = {name: network.about[name] for name in ("artifact", "file")}
        for name, value in found.items():
            if value != plan.description[name]:
                wanted = plan.description[name]
                raise UserError(f"the node {node} has another artifact: {name} is {value!r}, wanted {wanted!r}")
        # Processes that decode would import this process's main module, which is all of Ray.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._pipeline = Pipeline(
            network,
            batch_size=plan.description["batch_size"],
            processes=plan.processes,
            limit_pixels=plan.limit_pixels,
            finish=self._finish,
        )
        self._given: queue.SimpleQueue[_Shard] = queue.SimpleQueue()
        self._shards: dict[int, _Shard] = {}
        self._lock, self._error = threading.Lock(), list[BaseException]()
        self._reported = Seconds()
        threading.Thread(target=self._run, daemon=True).start()
        return node

    def classify(self, task: Task) -> Iterator[Report]:
        """Runs a shard; yields a report for each block that was not done when the job began, and one between them when
        the shard has been read.

        Raises:
            UserError: the node does not see the shard's files.
            Exception: see `Pipeline.run`; the worker takes no further shards then.
        """
        if task.path:
            _check_there(task.path)
        done = task.done
        if task.again:
            records = self._output.records(task.number)
            done = {**{record.name: record for record in records if record.name not in task.failed}, **done}
        blocks = Blocks(
            output=self._output,
            columns=self._plan.columns,
            rows=self._plan.description["block_rows"],
            size=self._plan.description["batch_size"],
            done=done,
            failed=task.failed,
            complete=self._plan.complete,
        )
        one = _Shard(task, blocks)
        yield from (Report(record, record.statistics.rows) for name, record in done.items() if name not in task.done)
        with self._lock:
            if self._error:
                raise self._error[0]
            self._shards[task.number] = one
        self._given.put(one)
        while (report := one.reports.get()) is not None:
            if isinstance(report, BaseException):
                raise report
            yield report

    def _run(self) -> None:
        try:
            self._pipeline.run(self._batches())
        except BaseException as error:
            with self._lock:
                self._error.append(error)
                for one in self._shards.values():
                    one.reports.put(error)

    def _batches(self) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            one = self._given.get()
            self._pipeline.seconds.reading -= time.perf_counter() - began
            left = set(one.blocks.done)
            for batch in one.blocks.batches(one.task.shard, one.task.number, left):
                if batch.runs or (batch.closes and not batch.entries):  # the pipeline finishes its block
                    with self._lock:
                        one.unfinished.add(batch.block)
                yield batch
            one.blocks.check_met(left)
            one.reports.put(Report(None))
            with self._lock:
                one.is_read = True
                self._end(one)

    def _finish(self, work: Work) -> None:
        one = self._shards[shard_of(work.name)]
        record = one.blocks.record_of(work)
        with self._lock:
            one.reports.put(Report(record, len(work.positions), self._seconds()))
            one.unfinished.discard(work.name)
            self._end(one)

    def _end(self, one: "_Shard") -> None:
        if one.is_read and not one.unfinished:
            del self._shards[one.task.number]
            one.reports.put(None)

    def _seconds(self) -> Seconds:
        """Of the stages since the last call."""
        now, before = replace(self._pipeline.seconds), self._reported
        self._reported = now
        return Seconds(**{name: value - getattr(before, name) for name, value in vars(now).items()})


@dataclass
class _Shard:
    """A shard that a worker runs; `unfinished` are blocks that are in the pipeline."""

    task: Task
    blocks: Blocks
    reports: "queue.SimpleQueue[Report | BaseException | None]" = field(default_factory=queue.SimpleQueue)
    unfinished: set[str] = field(default_factory=set)
    is_read: bool = False


def _check_there(path: str) -> None:
    if not os.path.lexists(path):
        node = socket.gethostname()
        raise UserError(f"the node {node} has no {path}; local files must have the same path on all nodes")
