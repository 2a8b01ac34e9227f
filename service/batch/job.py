"""A batch job: what it is to do, what of it is done, and that it is still the same when it is resumed."""

import hashlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from models.cores import available_cores
from models.errors import UserError
from models.images.header import DEFAULT_LIMIT_PIXELS
from service.batch.entries import Batch, Entry, Shard, Source, add_digest, batches_of
from service.batch.local import Pipeline, Seconds, Work
from service.batch.network import Network, Opening, Wanted
from service.batch.output import REMARKS, SCHEMA, Output, Record
from service.batch.parts import read_errors, replaced
from service.batch.remote.sender import Sender
from service.batch.remote.server import Address, Server
from service.batch.rows import Columns, table_of
from service.batch.sources.find import open_source
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
        self.source: Source = open_source(request.source, classes=classes, column=request.column, output=request.out)
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
        self.done: dict[str, Record] = {}
        self._failed: dict[str, dict[int, str]] = {}
        self._counted: dict[str, Record] = {}
        self._complete = False
        self._prepare()

    def _describe(self) -> dict[str, Any]:
        request, source = self.request, self.request.source
        return {
            "schema": SCHEMA,
            "source": os.path.abspath(source) if os.path.lexists(source) else source,
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
                raise UserError(f"{output.folder.name} is no output of a batch job; remove it or choose another --out")
            output.remove()
            output.begin(self.description)
            return
        if not (request.resume or request.retry_failed):
            raise UserError(f"{request.out} exists; --resume goes on with it, --overwrite replaces it")
        if former is None:
            raise UserError(f"{output.folder.name} is no output of a batch job, so that it cannot be resumed")
        self._check_same(former)
        self.done = {record.name: record for record in output.records()}
        self._complete = former.get("blocks") == len(self.done)
        if request.retry_failed:
            for name, record in self.done.items():
                if record.statistics.failed:
                    content = output.folder.read(output.part(name))
                    self._failed[name] = read_errors(content, output.form)

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
    def block_rows(self) -> int:
        """Rows of a part file."""
        return int(self.description["block_rows"])

    @property
    def records(self) -> Mapping[str, Record]:
        """The records of the blocks that are done, by their name."""
        return self._counted

    def needed(self, block: str, position: int) -> bool:
        """True for an entry that is to run."""
        return block not in self.done or position in self._failed.get(block, ())

    def run(self, tell: Callable[[Record], None]) -> Summary:
        """Runs the job on this machine.

        Args:
            tell: is called with the record of each block that is done, those of earlier runs first.

        Raises:
            TooManyErrors, UserError, UnwritableError: the job stopped and can be resumed.
        """
        with ExitStack() as opened:
            self.start(tell)
            remarks = opened.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace"))
            pipeline = self._pipeline(lambda work: self.finish(work, tell))
            self.summary.seconds = pipeline.seconds
            pipeline.run(self._batches(lambda key, reason: self._remark(remarks, key, reason)))
            remarks.seek(0)
            self.complete(remarks.read())
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

    def start(self, tell: Callable[[Record], None]) -> None:
        """Counts what is done already."""
        self._began = time.monotonic()
        for record in self.done.values():
            self._count(record)
            tell(record)

    def complete(self, remarks: str) -> None:
        """Keeps the number of blocks, by which the job is complete, and makes the single file of JSON Lines or CSV."""
        self.output.folder.write(REMARKS, remarks.encode())
        self.output.begin({**self.description, "blocks": len(self._counted)})
        self.output.join()
        self.summary.elapsed_s = time.monotonic() - self._began

    def _remark(self, file: Any, key: str, reason: str) -> None:
        self.summary.remarks[reason] += 1
        file.write(f"{key}\t{reason}\n".replace("\r", "\\r"))

    def _batches(self, remark: Callable[[str, str], None]) -> Iterator[Batch]:
        left = set(self.done)
        for number, shard in enumerate(self.source.shards(remark, self.block_rows)):
            yield from self.batches(shard, number, left)
        if left:
            raise UserError(self._changed(f"{min(left)} is no longer there: the source has fewer images"))

    def batches(self, shard: Shard, number: int, left: set[str]) -> Iterator[Batch]:
        """A shard's batches; refuses blocks that are done and were others then.

        Args:
            left: names of blocks that are done; those that are met are removed.

        Raises:
            UserError: the source was changed.
        """
        found, first = hashlib.blake2b(digest_size=16), ""
        batches = batches_of(shard, number, rows=self.block_rows, size=self.batch_size, needed=self.needed)
        for batch in batches:
            if batch.start == 0:
                found = hashlib.blake2b(digest_size=16)
                first = batch.entries[0].key if batch.entries else ""
            if (record := self.done.get(batch.block)) is not None:
                for entry in batch.entries:
                    add_digest(found, entry)
                if batch.closes:
                    left.discard(batch.block)
                    if found.hexdigest() != record.digest or batch.last != record.last:
                        final = batch.entries[-1].key if batch.entries else ""
                        was, now = f"{record.first!r} to {record.final!r}", f"{first!r} to {final!r}"
                        raise UserError(self._changed(f"block {batch.block} was {was} and is {now}"))
            elif self._complete:
                raise UserError(self._changed(f"{first!r} is new"))
            yield batch

    def _changed(self, how: str) -> str:
        return f"{self.request.out} cannot be resumed, as the source was changed: {how}"

    def finish(self, work: Work, tell: Callable[[Record], None]) -> None:
        """Writes a block that ran."""
        record = self.record_of(work)
        self._count(record, now=len(work.positions))
        tell(record)
        limit, counted = self.request.max_errors, self.summary.statistics
        if limit and limit.exceeded(counted.failed, counted.rows):
            raise TooManyErrors(
                f"{counted.failed:,} of {counted.rows:,} rows have errors, more than --max-errors; "
                f"stopped, --resume goes on"
            )

    def record_of(self, work: Work) -> Record:
        """Writes a block that ran, or the rows of it that ran again; returns its record."""
        entries = [work.entries[position] for position in work.positions]
        table = table_of(entries, work.outputs, self.columns) if entries else self.columns.schema.empty_table()
        found, former = Statistics.of(table), self.done.get(work.name)
        if former is None:
            record = Record(work.name, work.last, _digest(work.entries), *_ends(work.entries), work.problem, found)
            self.output.write(record, table)
            return record
        place = self.output.part(work.name)
        content = replaced(self.output.folder.read(place), self.output.form, work.positions, table, self.columns.top_k)
        statistics = former.statistics.without(Counter(self._failed[work.name].values()))
        statistics.add(found)
        record = replace(former, statistics=statistics)
        self.output.folder.write(place, content)
        self.output.write_record(record)
        return record

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


def _digest(entries: list[Entry]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for entry in entries:
        add_digest(found, entry)
    return found.hexdigest()


def _ends(entries: list[Entry]) -> tuple[str, str]:
    return (entries[0].key, entries[-1].key) if entries else ("", "")
