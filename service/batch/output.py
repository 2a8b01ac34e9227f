"""A job's output: part files, each of which appears as a whole, and a record of each one: the journal.

`OUT.parquet` is a folder of part files, with the job's own files in its folder `_job`. `OUT.jsonl` and `OUT.csv` are
made at the end from the part files in `OUT.jsonl.parts`. A block is done when its record exists, which is written after
its part file; both have names that only depend on the source, so that doing a block twice replaces the same file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from models.errors import UserError
from service.batch.entries import shard_of
from service.batch.parts import FORMATS, Format, write_part
from service.batch.statistics import Statistics
from service.batch.storage import Folder

JOB, JOB_FILE, REMARKS, RECORDS = "_job", "_job/job.json", "_job/passed-over.tsv", "_job/blocks"
SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """What the journal knows about a block that is done.

    Attributes:
        name: of the block.
        last: true for the last block of its shard.
        digest: of the keys.
        first, final: the first and the last key.
        problem: why the shard could not be read further.
    """

    name: str
    last: bool
    digest: str
    first: str
    final: str
    problem: str
    statistics: Statistics

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return shard_of(self.name)


class Output:
    """Part files and the journal.

    Args:
        name: path or URL, ending in `.parquet`, `.jsonl` or `.csv`.
        about: for the metadata of part files.
        top_k: number of labels in each row.

    Raises:
        UserError: the name has another ending.
    """

    def __init__(self, name: str, about: dict[str, object] | None = None, top_k: int = 1) -> None:
        self.name, self.form, self.about, self._top_k = name.rstrip("/"), form_of(name), about or {}, top_k
        self.folder = Folder(places_of(self.name)[-1])
        last = self.name.rpartition("/")[2]
        self._beside, self._joined = Folder(self.name.removesuffix(last) or "."), last

    def part(self, block: str) -> str:
        """Name of a block's part file."""
        return f"part-{block}.{self.form}"

    def exists(self) -> bool:
        """True if there is a job of this name, or anything else in its place."""
        return self.folder.exists() or self._beside.exists(self._joined)

    def job(self) -> dict[str, Any] | None:
        """The job's description; None if there is no job, and what has its name is something else."""
        return json.loads(self.folder.read(JOB_FILE)) if self.folder.exists(JOB_FILE) else None

    def begin(self, job: dict[str, Any]) -> None:
        """Writes the job's description."""
        self.folder.write(JOB_FILE, json.dumps(job, indent=1).encode() + b"\n")

    def remove(self) -> None:
        """Removes a former job."""
        self.folder.remove()

    def write(self, record: Record, table: pa.Table) -> None:
        """Writes a block's part file, if it has rows, and then its record.

        Raises:
            UnwritableError: see `Folder.writing`.
        """
        if len(table):
            with self.folder.writing(self.part(record.name)) as file:
                write_part(table, self.form, file, self.about, self._top_k)
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        """Writes a record, by which its block is done."""
        content = {**vars(record), "statistics": record.statistics.to_json()}
        self.folder.write(f"{RECORDS}/{record.name}.json", json.dumps(content).encode())

    def records(self, shard: int | None = None) -> Iterator[Record]:
        """The journal, or its records of one shard, in the order of the source."""
        prefix = "" if shard is None else f"{shard:06}-"
        for name in self.folder.names(RECORDS):
            if name.endswith(".json") and name.startswith(prefix):
                found = json.loads(self.folder.read(f"{RECORDS}/{name}"))
                yield Record(**{**found, "statistics": Statistics.from_json(found["statistics"])})

    def parts(self) -> list[str]:
        """Names of the part files with a record, in the order of the source."""
        return [self.part(record.name) for record in self.records() if record.statistics.rows]

    def join(self) -> None:
        """Makes the single file of JSON Lines or CSV."""
        if self.form == "parquet":
            return
        with self._beside.writing(self._joined) as file:
            for number, part in enumerate(self.parts()):
                content = self.folder.read(part)
                file.write(content if self.form == "jsonl" or number == 0 else content.partition(b"\n")[2])


def places_of(name: str) -> tuple[str, ...]:
    """Where an output lies: its folder of part files, after the single file if it has one."""
    name = name.rstrip("/")
    return (name,) if form_of(name) == "parquet" else (name, f"{name}.parts")


def form_of(name: str) -> Format:
    """The format of an output by the ending of its name.

    Raises:
        UserError: the ending is none of `.parquet`, `.jsonl` and `.csv`.
    """
    ending = name.rstrip("/").rpartition(".")[2]
    for form in FORMATS:
        if ending == form:
            return form
    raise UserError(f"--out is {name}; it must end in {', '.join(f'.{form}' for form in FORMATS)}")
