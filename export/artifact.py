"""The artifact directory `<root>/<name>/<version>/`: its manifest, its hashes, where to find it and how to write it."""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from models.files import sha256_of
from models.inputs import InputSpec
from models.nodes import Node

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"
TORCHSCRIPT_FILE = "model.ts"
GOLDEN_FILE = "golden.npz"
WEIGHTS_FILE = "weights.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ArtifactError(ValueError):
    """An artifact that is missing, damaged or of another schema; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: its hash, its size, and what verification measured (empty for files without a graph)."""

    sha256: str
    size_bytes: int
    parity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says.

    Attributes:
        name, version: how clients ask for it; versions are integers from 1.
        classes: names by index.
        input: image size, mode, resizing and normalisation.
        temperature: the logits are divided by it before the softmax, inside the graph.
        model, options: the network in the registry, to rebuild it from `weights.safetensors`.
        nodes: the network's values and what they are called in the ONNX graph.
        files: by plain file name.
        metrics, dataset, revision, versions: from the checkpoint.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    input: InputSpec
    temperature: float
    model: str
    options: dict[str, Any]
    nodes: tuple[Node, ...]
    files: dict[str, FileEntry]
    metrics: dict[str, dict[str, float]]
    dataset: dict[str, Any]
    revision: str | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json, its own hash included."""
        content = {"schema": SCHEMA, **asdict(self), **self.input.to_json()}
        return {**content, "sha256": _own_hash(content)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Manifest":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: another schema, a wrong hash, or keys that are missing or unknown.
        """
        fields = dict(content)
        if (schema := fields.get("schema")) != SCHEMA:
            raise ValueError(f"schema is {schema!r}; this version reads {SCHEMA}")
        expected = fields.pop("sha256", None)
        if (found := _own_hash(fields)) != expected:
            raise ValueError(f"its sha256 is {found[:12]}..., but it says {str(expected)[:12]}...; it was changed")
        fields.pop("schema")
        try:
            fields["input"] = InputSpec.from_json({key: fields.pop(key) for key in ("input", "preprocess")})
            fields["nodes"] = tuple(Node.from_json(node) for node in fields["nodes"])
            fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
            fields["classes"] = tuple(fields["classes"])
            manifest = cls(**fields)
        except KeyError as error:
            raise ValueError(f"the key {error} is missing") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None
        check_name(manifest.name)
        if not isinstance(manifest.version, int) or manifest.version < 0:
            raise ValueError(f"version is {manifest.version!r}; wanted a whole number")
        if odd := [name for name in manifest.files if not _NAME.fullmatch(name)]:
            raise ValueError(f"{odd[0]!r} is not a plain file name")
        return manifest


def check_name(name: str) -> str:
    """Returns `name` if it can be an artifact's: letters, digits, `.`, `_`, `-`, at most 100, no leading mark.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be an artifact's name; use letters, digits, '.', '_' and '-', at most 100")
    return name


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks manifest.json, not the other files.

    Raises:
        ArtifactError: it is not there, not readable, or was changed.
    """
    path = directory / MANIFEST_FILE
    try:
        return Manifest.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; {directory} is not an artifact") from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compares every file with the hash in the manifest.

    Raises:
        ArtifactError: the first file that is missing or differs.
    """
    for name in manifest.files:
        check_file(directory, manifest, name)


def check_file(directory: Path, manifest: Manifest, name: str) -> None:
    """The same for one of its files."""
    path, expected = directory / name, manifest.files[name].sha256
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist, but the manifest lists it")
    if (found := sha256_of(path)) != expected:
        raise ArtifactError(f"{path}: sha256 is {found[:12]}..., the manifest says {expected[:12]}...")


def find_versions(root: Path) -> list[Path]:
    """The artifact directories under `root`, which may itself be one artifact, one name's folder or a folder of names.

    Returns:
        Paths in the order of name and version. Whether each is sound is for `read_manifest` to say.
    """
    if (root / MANIFEST_FILE).is_file():
        return [root]
    found = [*_numbered(root)]
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir() and _NAME.fullmatch(folder.name):
            found += _numbered(folder)
    return found


def newest_version(path: Path) -> Path:
    """The artifact directory that `path` means: itself, or the newest version in a name's folder.

    Raises:
        ArtifactError: there is none, or several names to choose from.
    """
    found = find_versions(path)
    if not found:
        raise ArtifactError(f"{path} is not an artifact: no {MANIFEST_FILE} in it or in a numbered folder of it")
    if len({version.parent for version in found}) > 1:
        names = ", ".join(sorted({version.parent.name for version in found}))
        raise ArtifactError(f"{path} holds several artifacts ({names}); name one")
    return found[-1]


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """Yields an empty folder on the same disk; removes it, with what is left in it, when the block ends."""
    folder = root / check_name(name)
    staging = folder / f".staging-{os.getpid()}-{threading.get_ident()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # it holds versions, or another export's folder
            folder.rmdir()


def publish(staging: Path, manifest: Manifest) -> Path:
    """Numbers a staged folder with the next version, writes its manifest and renames it into place.

    `manifest.version` is set here; the renaming is what makes the artifact visible.

    Returns:
        The artifact directory.
    """
    folder = staging.parent
    version = max((int(path.name) for path in _numbered(folder, complete=False)), default=0) + 1
    while True:
        content = replace(manifest, version=version).to_json()
        (staging / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n")
        try:
            return staging.rename(folder / str(version))
        except OSError:  # another export took this number meanwhile
            if not (folder / str(version)).exists():
                raise
            version += 1


def file_entry(path: Path, parity: dict[str, Any] | None = None) -> FileEntry:
    """The manifest's row for a file as it lies there."""
    return FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size, parity=parity or {})


def _numbered(folder: Path, *, complete: bool = True) -> list[Path]:
    children = folder.iterdir() if folder.is_dir() else iter(())
    numbered = [path for path in children if path.name.isascii() and path.name.isdecimal() and path.is_dir()]
    wanted = [path for path in numbered if not complete or (path / MANIFEST_FILE).exists()]
    return sorted(wanted, key=lambda path: int(path.name))


def _own_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
