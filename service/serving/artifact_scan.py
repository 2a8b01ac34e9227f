"""What lies in the artifacts directory now."""

from pathlib import Path

from export.artifact.directory import find_versions, locate
from export.artifact.manifest import ArtifactError, read_manifest

Signature = tuple[tuple[str, int, int], ...]  # name, size and time of every file


def scan(artifacts: Path) -> dict[Path, Signature]:
    """What every artifact under `artifacts` looks like; without files if that cannot be seen.

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
        except OSError:  # opening it will say what is wrong
            found[directory] = ()
    return found


def has_model(artifacts: Path, name: str) -> bool:
    """Whether any artifact under `artifacts` is of the model `name`, sound or not.

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
    """Whether there is anything at all at `artifacts`."""
    return locate(artifacts).exists()


def _signature(directory: Path) -> Signature:
    files = []
    for path in sorted(directory.iterdir()):
        try:
            stat = path.stat()
        except FileNotFoundError:  # a program's temporary file that is gone again, or a link to nowhere
            continue
        files.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(files)
