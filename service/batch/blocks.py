"""The rule by which jobs are resumed: which blocks are done, which rows are left, and how a block is recorded."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from models.errors import UserError
from service.batch.entries import Batch, Entry, Shard, add_digest, batches_of
from service.batch.local import Work
from service.batch.output import Output, Record
from service.batch.parts import replaced
from service.batch.rows import Columns, table_of
from service.batch.statistics import Statistics


@dataclass(kw_only=True)
class Blocks:
    """Blocks of a job, or of one of its shards.

    Attributes:
        output: part files and records.
        columns: of the rows.
        rows: entries of each block but a shard's last.
        size: entries of each batch but a block's last.
        done: records by the block's name.
        failed: codes of the rows that are run again, by block and position.
        complete: true if the journal has all blocks of the source.
    """

    output: Output
    columns: Columns
    rows: int
    size: int
    done: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    complete: bool = False

    def needed(self, block: str, position: int) -> bool:
        """True for an entry that is to run."""
        return block not in self.done or position in self.failed.get(block, ())

    def batches(self, shard: Shard, number: int, left: set[str]) -> Iterator[Batch]:
        """A shard's batches; refuses blocks that are done and were others then.

        Args:
            left: names of blocks that are done; those that are met are removed.

        Raises:
            UserError: the source was changed.
        """
        found, first = hashlib.blake2b(digest_size=16), ""
        for batch in batches_of(shard, number, rows=self.rows, size=self.size, needed=self.needed):
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
                        raise self.changed(f"block {batch.block} was {was} and is {now}")
            elif self.complete:
                raise self.changed(f"{first!r} is new")
            yield batch

    def check_met(self, left: set[str]) -> None:
        """Raises UserError if blocks that are done were not met in the source."""
        if left:
            raise self.changed(f"{min(left)} is no longer there: the source has fewer images")

    def changed(self, how: str) -> UserError:
        """The error for another source than before."""
        return UserError(f"{self.output.name} cannot be resumed, as the source was changed: {how}")

    def record_of(self, work: Work) -> Record:
        """Writes a block that ran, or the rows of it that ran again; returns its record.

        Raises:
            UnwritableError: see `Folder.writing`.
        """
        former = self.done.get(work.name)
        if former is not None and not work.positions:
            return former
        entries = [work.entries[position] for position in work.positions]
        table = table_of(entries, work.outputs, self.columns) if entries else self.columns.schema.empty_table()
        found = Statistics.of(table)
        if former is None:
            record = Record(work.name, work.last, _digest(work.entries), *_ends(work.entries), work.problem, found)
            self.output.write(record, table)
            return record
        place = self.output.part(work.name)
        content = replaced(self.output.folder.read(place), self.output.form, work.positions, table, self.columns.top_k)
        statistics = former.statistics.without(Counter(self.failed[work.name].values()))
        statistics.add(found)
        record = replace(former, statistics=statistics)
        self.output.folder.write(place, content)
        self.output.write_record(record)
        return record


def _digest(entries: list[Entry]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for entry in entries:
        add_digest(found, entry)
    return found.hexdigest()


def _ends(entries: list[Entry]) -> tuple[str, str]:
    return (entries[0].key, entries[-1].key) if entries else ("", "")
