"""The current content of the artifacts directory."""

from pathlib import Path
from stat import S_ISDIR

from export.artifact.directory import find_versions, locate
from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.bench_record import BENCH_FILE

Signature = tuple[tuple[str, int, int], ...]  # name, size and time of every file


def scan(artifacts: Path) -> dict[Path, Signature]:
    """Snapshots every artifact under `artifacts`; without files if an artifact cannot be read.

    Raises:
        ArtifactError: BentoML's store has no such artifact.
        OSError: `artifacts` itself cannot be read.
    """
    found = {}
    for directory in find_versions(artifacts):
        try:
            found[directory] = _signature(directory)
        except FileNotFoundError:  # it is being removed
            continue
        except OSError:  # opening it reports the error
            found[directory] = ()
    return found


def has_model(artifacts: Path, name: str) -> bool:
    """True if any artifact under `artifacts`, valid or not, belongs to the model `name`.

    Raises:
        ArtifactError, OSError: see `scan`.
    """
    for directory in find_versions(artifacts):
        try:
            if read_manifest(directory).name == name:
                return True
        except (ArtifactError, OSError):
            continue
    return False


def exists(artifacts: Path) -> bool:
    """True if `artifacts` exists."""
    return locate(artifacts).exists()


def _signature(directory: Path) -> Signature:
    files = []
    for path in sorted(directory.iterdir()):
        try:
            status = path.stat()
        except FileNotFoundError:  # a temporary file that is already gone, or a broken link
            continue
        # Reference images are opened when they are asked for, and measuring changes no running server.
        if not S_ISDIR(status.st_mode) and path.name != BENCH_FILE:
            files.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(files)
