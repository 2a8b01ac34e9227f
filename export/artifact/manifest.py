"""The manifest of an artifact directory `<root>/<name>/<version>/`, and the hashes of its files."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.files import sha256_of
from models.graph.node import Node, nodes_from_json
from models.images.input_spec import InputSpec

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"
FP16_FILE = "model.fp16.onnx"
INT8_FILE = "model.int8.onnx"
TORCHSCRIPT_FILE = "model.ts"
TORCHSCRIPT_FP16_FILE = "model.fp16.ts"
TORCHSCRIPT_BF16_FILE = "model.bf16.ts"
PT2_FILE = "model.pt2"
AOTI_FILE = "model.aoti.pt2"
GOLDEN_FILE = "golden.npz"
WEIGHTS_FILE = "weights.safetensors"
ORIGINAL_FILE = "original.onnx"
INDEPENDENT = "independent"  # `options["scores"]` of a network that judges each class by itself
INDEPENDENT_SCORES = "the scores are independent (sigmoid): several classes may apply, and they need not sum to 1"
STORE_PREFIX = "bentoml:"  # the rest is a tag in BentoML's model store
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ArtifactError(UserError):
    """An artifact that is missing, damaged or of another schema; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: its hash, its size and, for a graph, the results of verification.

    Attributes:
        parity: the fields of `export.verify.parity.Parity`; empty for files without a graph.
        accuracy: on the test split, in [0, 1]; None if export was given no data.
        images_per_s: on the exporting machine, by batch size.
        machine: the machine the file is bound to, from `this_machine`; empty for files that run anywhere.
    """

    sha256: str
    size_bytes: int
    parity: dict[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    images_per_s: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A further way to run a file that was verified, such as `model.onnx` with OpenVINO in bf16; see `FileEntry`."""

    parity: dict[str, Any]
    accuracy: float | None
    images_per_s: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        name, version: the names clients request it by; versions are integers from 1.
        classes: names by index.
        input: image size, mode, resizing and normalisation.
        temperature: divisor of the logits before the softmax, inside the graph.
        model, options: the network in the registry, to rebuild it from `weights.safetensors`; or `onnx`, and the
            role of the used output of `original.onnx` (`export.engines.original.Conventions`).
        nodes: the network's values and their names in the ONNX graph.
        files: by plain file name.
        dropped: files that were written but not kept, and further ways to run one that are not good enough, with the
            reason.
        runs: further ways to run a file that were verified, by `GraphFormat.key`.
        metrics, dataset, revision, versions: from the checkpoint.
        reference: `accuracy` and `images_per_s` of the trained network in PyTorch, measured with the files.
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
    dropped: dict[str, str] = field(default_factory=dict)
    runs: dict[str, RunEntry] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def independent_scores(self) -> bool:
        """True if the probabilities of an image need not sum to 1: several classes may apply, or none."""
        return self.options.get("scores") == INDEPENDENT

    @property
    def takes_one_image(self) -> bool:
        """True if `model.onnx` takes one image only, so that engines run images one by one."""
        return self.options.get("batch") == 1

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json, its own hash included."""
        content = {"schema": SCHEMA, **asdict(self), **self.input.to_json()}
        return {**content, "sha256": _own_hash(content)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Manifest":
        """Parses the result of `to_json`.

        Raises:
            ValueError: another schema, a wrong hash, or keys that are missing or unknown.
        """
        fields = dict(content)
        if (schema := fields.get("schema")) != SCHEMA:
            raise UserError(f"schema is {schema!r}; this version reads {SCHEMA}")
        expected = fields.pop("sha256", None)
        if (found := _own_hash(fields)) != expected:
            raise UserError(f"its sha256 is {found[:12]}..., but it says {str(expected)[:12]}...; it was changed")
        fields.pop("schema")
        try:
            fields["input"] = InputSpec.from_json({key: fields.pop(key) for key in ("input", "preprocess")})
            fields["nodes"] = nodes_from_json(fields["nodes"])
            fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
            fields["runs"] = {key: RunEntry(**entry) for key, entry in fields.get("runs", {}).items()}
            fields["classes"] = tuple(fields["classes"])
            manifest = cls(**fields)
        except KeyError as error:
            raise UserError(f"the key {error} is missing") from None
        except (TypeError, AttributeError) as error:
            raise UserError(str(error)) from None
        check_name(manifest.name)
        if not isinstance(manifest.version, int) or manifest.version < 0:
            raise UserError(f"version is {manifest.version!r}; wanted a whole number")
        if odd := [name for name in manifest.files if not _NAME.fullmatch(name)]:
            raise UserError(f"{odd[0]!r} is not a plain file name")
        return manifest


def check_name(name: str) -> str:
    """Returns `name` if it is valid for an artifact: letters, digits, `.`, `_`, `-`, at most 100, no leading mark.

    Raises:
        ValueError: it is not valid.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be an artifact's name; use letters, digits, '.', '_' and '-', at most 100")
    return name


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks manifest.json, not the other files.

    Raises:
        ArtifactError: it is missing, unreadable, or was changed.
    """
    path = directory / MANIFEST_FILE
    try:
        return Manifest.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; {directory} is not an artifact") from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def check_files(directory: Path, manifest: Manifest, *, but: str = "") -> None:
    """Compares every file with its hash in the manifest, except the one called `but`.

    Raises:
        ArtifactError: the first file that is missing or differs.
    """
    for name in manifest.files:
        if name != but:
            check_file(directory, manifest, name)


def check_file(directory: Path, manifest: Manifest, name: str) -> None:
    """Compares one file with its hash; see `check_files`."""
    _compare(directory / name, manifest, sha256_of)


def read_file(directory: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of a file, read once and compared with their hash; see `check_files`."""
    content = b""

    def read_and_hash(path: Path) -> str:
        nonlocal content
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest()

    _compare(directory / name, manifest, read_and_hash)
    return content


def _compare(path: Path, manifest: Manifest, hash_of: Callable[[Path], str]) -> None:
    expected = manifest.files[path.name].sha256
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist, but the manifest lists it")
    if (found := hash_of(path)) != expected:
        raise ArtifactError(f"{path}: sha256 is {found[:12]}..., the manifest says {expected[:12]}...")


def _own_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
