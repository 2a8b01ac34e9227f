"""Files shared by the workers of one server: one per worker, in a folder private to the server.

prometheus_client's own multi-process mode, with values in memory-mapped files, takes 2 to 4 microseconds per
observation, a sixth of a small network's request; and BentoML gives every server on a machine the same folder for it.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from service.telemetry.counters import Snapshot, Values

DIRECTORY = "CONVSCOPE_STATE_DIR"  # passes the folder from the server's first process to its workers; not a setting


def make_directory() -> None:
    """Creates the folder for the workers, which inherit this process's environment; removes it at exit."""
    directory = tempfile.mkdtemp(prefix="convscope-")
    Path(directory, "parent").write_text(str(os.getpid()))
    os.environ[DIRECTORY] = directory
    atexit.register(shutil.rmtree, directory, ignore_errors=True)


def files_of(worker: int | None) -> "WorkerFiles | None":
    """The files of this worker by its number; None without a number, or in a process not started by a server."""
    directory = os.environ.get(DIRECTORY)
    return WorkerFiles(Path(directory), worker) if worker is not None and directory else None


class WorkerFiles:
    """The files in the folder, one of which belongs to this worker.

    Args:
        directory: the server's folder.
        worker: its number; a replacement has the dead worker's number, so files do not accumulate.

    Attributes:
        wanted: the state requested by calls, written by `service.serving.reconciler`.
        ready: exists once every artifact has been served.
    """

    def __init__(self, directory: Path, worker: int) -> None:
        self.wanted, self.ready = directory / "wanted", directory / "ready"
        self._own = directory / f"{worker}.json"
        self._reached = directory / f"{worker}.reached"
        self._written = b""

    @property
    def parent(self) -> int:
        """Process id of the server's first process, which started the workers."""
        return int((self._own.parent / "parent").read_text())

    def note_end(self) -> None:
        """Records that this worker is about to end."""
        self._ending(os.getpid()).touch()

    def all_end(self) -> bool:
        """True if every running worker is about to end."""
        return all(self._ending(process).exists() for process, _ in self._told() if _runs(process))

    def _ending(self, process: int) -> Path:
        return self._own.parent / f"{process}.ending"

    def reached(self, generation: int) -> None:
        """Records that this worker has applied all calls up to `generation`."""
        temporary = self._reached.with_suffix(".tmp")
        temporary.write_text(f"{os.getpid()} {generation}")
        temporary.replace(self._reached)

    def all_reached(self, generation: int) -> bool:
        """True if every running worker has applied all calls up to `generation`."""
        return all(done >= generation for process, done in self._told() if _runs(process))

    def dead(self) -> list[int]:
        """Process ids of dead workers without a replacement."""
        return [process for process, _ in self._told() if not _runs(process)]

    def _told(self) -> list[tuple[int, int]]:
        pairs = [path.read_text().split() for path in self._own.parent.glob("*.reached")]
        return [(int(process), int(generation)) for process, generation in pairs]

    def before(self) -> Values:
        """The counts of this worker's predecessor, if any."""
        snapshot = _read(self._own)
        return snapshot.counts if snapshot else {}

    def write(self, snapshot: Snapshot) -> None:
        """Replaces this worker's file if anything has changed.

        Raises:
            OSError: the file cannot be written.
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
        temporary.write_bytes(content)  # not models.files.whole_file: waiting for the disk would block the event loop
        temporary.replace(self._own)
        self._written = content

    def others(self) -> Iterator[Snapshot]:
        """The latest counts of the other workers; without gauges if the process is gone."""
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
    try:  # a zombie can still be sent signals
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
