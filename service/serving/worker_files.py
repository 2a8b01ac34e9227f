"""What the workers of one server tell each other: a file each, in a folder that only this server has.

prometheus_client's own way, values in memory-mapped files, takes 2 to 4 microseconds an observation, which would be a
sixth of a small network's requests; and BentoML gives every server on a machine the same folder for them.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from service.telemetry.counters import Snapshot, Values

DIRECTORY = "CONVSCOPE_STATE_DIR"  # how the server's first process tells its workers; not a setting


def make_directory() -> None:
    """Makes the folder, for the workers that inherit this process's environment; it is removed when this one ends."""
    directory = tempfile.mkdtemp(prefix="convscope-")
    os.environ[DIRECTORY] = directory
    atexit.register(shutil.rmtree, directory, ignore_errors=True)


def files_of(worker: int | None) -> "WorkerFiles | None":
    """This worker's, by its number; None for a worker without one, or in a process that no server has started."""
    directory = os.environ.get(DIRECTORY)
    return WorkerFiles(Path(directory), worker) if worker is not None and directory else None


class WorkerFiles:
    """The files in the folder, of which one is this worker's.

    Args:
        directory: of this server.
        worker: its number; a worker that takes a dead one's place has the dead one's number, so files do not pile up.

    Attributes:
        wanted: where `service.serving.reconciler` writes what calls have asked for.
        ready: is there once everything has been served.
    """

    def __init__(self, directory: Path, worker: int) -> None:
        self.wanted, self.ready = directory / "wanted", directory / "ready"
        self._own = directory / f"{worker}.json"
        self._reached = directory / f"{worker}.reached"
        self._written = b""

    def reached(self, generation: int) -> None:
        """Tells the others that this worker has carried out everything up to a call."""
        temporary = self._reached.with_suffix(".tmp")
        temporary.write_text(f"{os.getpid()} {generation}")
        temporary.replace(self._reached)

    def all_reached(self, generation: int) -> bool:
        """Whether every worker that runs has carried out everything up to a call."""
        return all(done >= generation for process, done in self._told() if _runs(process))

    def dead(self) -> list[int]:
        """Processes of workers that are gone, and that no other has taken the place of."""
        return [process for process, _ in self._told() if not _runs(process)]

    def _told(self) -> list[tuple[int, int]]:
        pairs = [path.read_text().split() for path in self._own.parent.glob("*.reached")]
        return [(int(process), int(generation)) for process, generation in pairs]

    def before(self) -> Values:
        """What this worker's predecessor had counted, or nothing."""
        snapshot = _read(self._own)
        return snapshot.counts if snapshot else {}

    def write(self, snapshot: Snapshot) -> None:
        """Replaces this worker's file, if anything has changed.

        Raises:
            OSError: it cannot be written.
        """
        content = orjson.dumps(
            {
                "process": snapshot.process,
                "counts": {name: list(series.items()) for name, series in snapshot.counts.items()},
                "gauges": {name: list(series.items()) for name, series in snapshot.gauges.items()},
            }
        )
        if content == self._written:
            return
        temporary = self._own.with_suffix(".tmp")
        temporary.write_bytes(content)  # not models.files.whole_file: waiting for the disk would stop the event loop
        temporary.replace(self._own)
        self._written = content

    def others(self) -> Iterator[Snapshot]:
        """What the other workers wrote last; without gauges if the process is gone."""
        for path in sorted(self._own.parent.glob("*.json")):
            if path != self._own and (snapshot := _read(path)):
                yield snapshot if _runs(snapshot.process) else Snapshot(snapshot.process, snapshot.counts, {})


def _read(path: Path) -> Snapshot | None:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Snapshot(content["process"], _values(content["counts"]), _values(content["gauges"]))


def _values(content: dict[str, list[tuple[list[str], list[float]]]]) -> Values:
    return {name: {tuple(labels): values for labels, values in series} for name, series in content.items()}


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:  # one that nobody has asked for its exit code can still be sent signals
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
