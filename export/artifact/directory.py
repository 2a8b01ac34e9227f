"""Artifact directories: finding versions, staging and publishing."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.artifact.manifest import _NAME, MANIFEST_FILE, STORE_PREFIX, ArtifactError, FileEntry, Manifest, check_name
from models.files import sha256_of


def locate(path: Path) -> Path:
    """Resolves `path` to a folder: itself, or for `bentoml:NAME:VERSION` the model's folder in BentoML's store.

    Raises:
        ArtifactError: the store has no such artifact.
    """
    if not str(path).startswith(STORE_PREFIX):
        return path
    from export.artifact.store import find_in_store  # bentoml takes a second to import

    return find_in_store(str(path).removeprefix(STORE_PREFIX))


def find_versions(root: Path) -> list[Path]:
    """The artifact directories under `root`, which may itself be one artifact, one name's folder or a folder of names,
    or `bentoml:NAME:VERSION`, which is one.

    Returns:
        Paths in the order of name and version; `read_manifest` checks each.

    Raises:
        ArtifactError: BentoML's store has no such artifact.
    """
    root = locate(root)
    if (root / MANIFEST_FILE).is_file():
        return [root]
    found = [*_numbered(root)]
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir() and _NAME.fullmatch(folder.name):
            found += _numbered(folder)
    return found


def newest_version(path: Path) -> Path:
    """Resolves `path` to an artifact directory: itself, or the newest version in a name's folder.

    Raises:
        ArtifactError: there is no artifact, or there are several names to choose from.
    """
    found = find_versions(path)
    if not found:
        raise ArtifactError(f"{path} is not an artifact: no {MANIFEST_FILE} in it or in a numbered folder of it")
    if len({version.parent for version in found}) > 1:
        names = ", ".join(sorted({version.parent.name for version in found}))
        raise ArtifactError(f"{path} holds several artifacts ({names}); name one")
    return found[-1]


@dataclass(frozen=True)
class StagedArtifact:
    """An artifact being written: its folder under a temporary name, and its reserved version."""

    path: Path
    version: int


@contextmanager
def stage_artifact(root: Path, name: str) -> Iterator[StagedArtifact]:
    """Reserves the next version of `root`/`name` and yields an empty folder on the same disk; removes the folder and
    its remaining content when the block ends.

    An empty folder, which is never read as an artifact, reserves the number; a killed process leaves it behind, and the
    number stays unused.
    """
    folder = root / check_name(name)
    version = _reserve(folder)
    path = folder / f".staging-{version}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield StagedArtifact(path, version)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        for reserved in (folder / str(version), folder):
            with suppress(OSError):  # published, or it holds other versions
                reserved.rmdir()


def publish(staging: StagedArtifact, manifest: Manifest) -> Path:
    """Writes a staged folder's manifest and renames the folder into place, which makes the artifact visible.

    Sets `manifest.version`.

    Returns:
        The artifact directory.
    """
    content = replace(manifest, version=staging.version).to_json()
    (staging.path / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n")
    return staging.path.rename(staging.path.parent / str(staging.version))


def _reserve(folder: Path) -> int:
    while True:
        version = max((int(path.name) for path in _numbered(folder, complete=False)), default=0) + 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(version)).mkdir()
            return version
        except (FileExistsError, FileNotFoundError):  # another export took it, or removed the folder when it failed
            if folder.exists() and not folder.is_dir():
                raise


def file_entry(path: Path, parity: dict[str, Any] | None = None, **measured: Any) -> FileEntry:
    """The manifest's row for a file on disk."""
    return FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size, parity=parity or {}, **measured)


def _numbered(folder: Path, *, complete: bool = True) -> list[Path]:
    children = folder.iterdir() if folder.is_dir() else iter(())
    numbered = [path for path in children if path.name.isascii() and path.name.isdecimal() and path.is_dir()]
    wanted = [path for path in numbered if not complete or (path / MANIFEST_FILE).exists()]
    return sorted(wanted, key=lambda path: int(path.name))
