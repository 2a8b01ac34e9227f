"""A batch job: what it is to do, what of it is done, and that it is still the same when it is resumed."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from models.cores import available_cores
from models.errors import UserError
from models.images.header import DEFAULT_LIMIT_PIXELS
from service.batch.blocks import Blocks
from service.batch.entries import Batch, Remark, Source
from service.batch.local import Pipeline, Seconds, Work
from service.batch.network import Network, Opening, Wanted
from service.batch.output import REMARKS, SCHEMA, Output, Record, places_of
from service.batch.parts import read_failures
from service.batch.remote.sender import Sender
from service.batch.remote.server import Address, Server
from service.batch.rows import Columns
from service.batch.sources.find import open_source, placed
from service.batch.statistics import Statistics

BLOCK_ROWS = 2048
_SAME = ("source", "column", "artifact", "file", "top_k", "logits", "layer", "limit_pixels", "extra")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job is to do.

    Attributes:
        source: see `open_source`.
        out: path or URL of the output.
        opening: the artifact, or the server that runs it.
        wanted: what is made of each image.
        column: of the images in a list or table.
        limit_pixels: maximum width x height of an image.
        block_rows: rows of a part file.
        processes: that decode; one for each processor if 0.
        batch_size: images of a batch; chosen by their size if 0.
        max_errors: rows with errors after which the job stops, as a number or a share of the rows; None for any.
        resume: go on with a job that was stopped.
        retry_failed: run the rows with errors again.
        overwrite: replace an existing output.
    """

    source: str
    out: str
    opening: Opening | Address
    wanted: Wanted
    column: str = ""
    limit_pixels: int = DEFAULT_LIMIT_PIXELS
    block_rows: int = BLOCK_ROWS
    processes: int = 0
    batch_size: int = 0
    max_errors: "MaxErrors | None" = None
    resume: bool = False
    retry_failed: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class MaxErrors:
    """The most rows with errors: a number, or a share in [0, 1] of at least 1,000 rows."""

    count: int | None = None
    share: float | None = None

    def exceeded(self, errors: int, rows: int) -> bool:
        """True if there are more."""
        if self.count is not None:
            return errors > self.count
        return self.share is not None and rows >= 1000 and errors > self.share * rows


class TooManyErrors(UserError):
    """More rows have errors than `--max-errors` allows; the job can be resumed."""


@dataclass
class Summary:
    """What a job came to.

    Attributes:
        statistics: of all rows, those of earlier runs too.
        rows_now: rows that were written this time.
        seconds: of the stages, and altogether.
        remarks: things that got no row, by reason.
        problems: shards that could not be read to their end, with the reason.
    """

    statistics: Statistics = field(default_factory=Statistics)
    rows_now: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    elapsed_s: float = 0.0
    remarks: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)


class Job:
    """A job that is checked and ready to run.

    Args:
        request: what is to be done.

    Raises:
        UserError: the source, the artifact or the output cannot be used, or a former job was another one.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.network = _opened(request.opening, request.wanted)
        classes = self.network.classes
        output = places_of(request.out)
        self.source: Source = open_source(request.source, classes=classes, column=request.column, output=output)
        wanted = request.wanted
        self.columns = Columns(
            classes=classes,
            top_k=min(wanted.top_k, len(classes)),
            truth=self.source.labelled,
            logits=wanted.logits,
            embedding=self.network.embedding,
            extra=self.source.extra,
        )
        self.batch_size = request.batch_size or self.network.batch_size
        self.description = self._describe()
        self.output = Output(request.out, self.description, self.columns.top_k)
        self.summary = Summary()
        self._resumed: dict[str, Any] = {}
        self._counted: dict[str, Record] = {}
        self._prepare()
        self.blocks = self._find_blocks()

    def _describe(self) -> dict[str, Any]:
        request = self.request
        return {
            "schema": SCHEMA,
            "source": placed(request.source),
            "column": request.column,
            **self.network.about,
            "top_k": self.columns.top_k,
            "logits": request.wanted.logits,
            "layer": request.wanted.layer,
            "limit_pixels": request.limit_pixels,
            "extra": [f"{one.name}: {one.type}" for one in self.source.extra],
            "block_rows": -(-request.block_rows // self.batch_size) * self.batch_size,
            "batch_size": self.batch_size,
        }

    def _prepare(self) -> None:
        request, output = self.request, self.output
        if not output.exists():
            if request.retry_failed:
                raise UserError(f"{request.out} does not exist, so that no rows can be tried again")
            output.begin(self.description)
            return
        former = output.job()
        if request.overwrite:
            if former is None:
                raise UserError(f"{request.out} is no output of a batch job; remove it or choose another --out")
            output.remove()
            output.begin(self.description)
            return
        if not (request.resume or request.retry_failed):
            if former is None:
                raise UserError(f"{request.out} exists, and is no output of a batch job; choose another --out")
            raise UserError(f"{request.out} exists; --resume goes on with it, --overwrite replaces it")
        if former is None:
            raise UserError(f"{request.out} is no output of a batch job, so that it cannot be resumed")
        self._check_same(former)
        self._resumed = former

    def _find_blocks(self) -> Blocks:
        """The journal; empty if the job begins."""
        rows, output = int(self.description["block_rows"]), self.output
        found = Blocks(output=output, columns=self.columns, rows=rows, size=self.batch_size)
        if self._resumed:
            found.done = {record.name: record for record in output.records()}
            found.complete = self._resumed.get("blocks") == len(found.done)
        if self.request.retry_failed:
            for name, record in found.done.items():
                if record.statistics.failed:
                    failures = read_failures(output.folder.read(output.part(name)), output.form)
                    found.failed[name] = {position: failure.code for position, failure in failures.items()}
        return found

    def _check_same(self, former: dict[str, Any]) -> None:
        now = self.description
        if changed := [name for name in _SAME if former.get(name) != now[name]]:
            found = "; ".join(f"{name} was {former.get(name)!r} and is {now[name]!r}" for name in changed)
            raise UserError(f"{self.request.out} cannot be resumed, as its rows would not fit together: {found}")
        # The same batches and blocks as before, so that rows are the same to the last bit.
        self.batch_size = former["batch_size"]
        self.description |= {"batch_size": former["batch_size"], "block_rows": former["block_rows"]}
        self.output.about = self.description

    @property
    def records(self) -> Mapping[str, Record]:
        """The records of the blocks that are done, by their name."""
        return self._counted

    def run(self, tell: Callable[[Record], None]) -> Summary:
        """Runs the job on this machine.

        Args:
            tell: is called with the record of each block that is done, those of earlier runs first.

        Raises:
            TooManyErrors, UserError, UnwritableError: the job stopped and can be resumed.
        """
        with self.running(tell) as remark:
            pipeline = self._pipeline(lambda work: self.add(self.blocks.record_of(work), len(work.positions), tell))
            self.summary.seconds = pipeline.seconds
            pipeline.run(self._batches(remark))
        return self.summary

    def _pipeline(self, finish: Callable[[Work], None]) -> Pipeline | Sender:
        if isinstance(self.network, Server):
            return Sender(self.network, batch_size=self.batch_size, finish=finish)
        return Pipeline(
            self.network,
            batch_size=self.batch_size,
            processes=self.request.processes or available_cores(),
            limit_pixels=self.request.limit_pixels,
            finish=finish,
        )

    @contextmanager
    def running(self, tell: Callable[[Record], None]) -> Iterator[Remark]:
        """Counts what is done already, and completes the job if no exception is raised. Yields a function for things
        that get no row.
        """
        self._began = time.monotonic()
        for record in self.blocks.done.values():
            self._count(record)
            tell(record)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as file:

            def remark(key: str, reason: str) -> None:
                self.summary.remarks[reason] += 1
                file.write(f"{key}\t{reason}\n".replace("\r", "\\r"))

            yield remark
            file.seek(0)
            self._complete(file.read())

    def _complete(self, remarks: str) -> None:
        """Keeps the number of blocks, by which the job is complete, and makes the single file of JSON Lines or CSV."""
        self.output.folder.write(REMARKS, remarks.encode())
        self.output.begin({**self.description, "blocks": len(self._counted)})
        self.output.join()
        self.summary.elapsed_s = time.monotonic() - self._began

    def _batches(self, remark: Remark) -> Iterator[Batch]:
        left = set(self.blocks.done)
        for number, shard in enumerate(self.source.shards(remark, self.blocks.rows)):
            yield from self.blocks.batches(shard, number, left)
        self.blocks.check_met(left)

    def add(self, record: Record, rows: int, tell: Callable[[Record], None]) -> None:
        """Counts a block that is done now.

        Args:
            rows: of it that ran.

        Raises:
            TooManyErrors: see `Request.max_errors`.
        """
        self._count(record, now=rows)
        tell(record)
        limit, counted = self.request.max_errors, self.summary.statistics
        if limit and limit.exceeded(counted.failed, counted.rows):
            raise TooManyErrors(
                f"{counted.failed:,} of {counted.rows:,} rows have errors, more than --max-errors; "
                f"stopped, --resume goes on"
            )

    def _count(self, record: Record, now: int = 0) -> None:
        if record.name in self._counted:  # its rows with errors were run again
            self._counted[record.name] = record
            self.summary.statistics = Statistics()
            for one in self._counted.values():
                self.summary.statistics.add(one.statistics)
        else:
            self._counted[record.name] = record
            self.summary.statistics.add(record.statistics)
        self.summary.rows_now += now
        if record.problem:
            self.summary.problems[record.name] = record.problem


def _opened(opening: Opening | Address, wanted: Wanted) -> Network | Server:
    return Server(opening, wanted) if isinstance(opening, Address) else Network(opening, wanted)
