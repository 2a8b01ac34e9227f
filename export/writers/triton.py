"""Writes a model repository for NVIDIA's Triton inference server from an artifact.

`<out>/<name>/` gets `config.pbtxt`, `labels.txt` and `<version>/model.onnx`, or `<version>/model.pt` for an artifact
without an ONNX file. The configuration is a `ModelConfig` message in protobuf's text format:
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from export.artifact.manifest import ONNX_FILE, TORCHSCRIPT_FILE, Manifest, check_file, read_manifest
from models.errors import UserError
from models.files import check_writable, sha256_of

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MAX_BATCH_SIZE = 64  # one of the batch sizes at which export compares every file with the network
MAX_QUEUE_DELAY_US = 1000


class TritonError(UserError):
    """An artifact that Triton cannot serve, or that conflicts with its repository; the message gives the reason."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The Triton backend for one of our files.

    Attributes:
        source: the artifact's file.
        file: the file name that Triton expects.
        backend, platform: Triton's names of the backend.
        image, probabilities, logits: names of the tensors. TorchScript files do not name theirs, so Triton requires
            the position of each, after two underscores.
    """

    source: str
    file: str
    backend: str
    platform: str
    image: str
    probabilities: str
    logits: str


BACKENDS = (  # the first whose file exists is used
    Backend(
        source=ONNX_FILE,
        file="model.onnx",
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        image="image",
        probabilities="probabilities",
        logits="logits",
    ),
    Backend(
        source=TORCHSCRIPT_FILE,
        file="model.pt",
        backend="pytorch",
        platform="pytorch_libtorch",
        image="image__0",
        probabilities="probabilities__0",
        logits="logits__1",
    ),
)


def write_triton(artifact: Path, out: Path) -> Path:
    """Adds an artifact to a model repository, under its own name and version.

    An existing model keeps its configuration, including manual tuning, if it matches this artifact: the same tensors
    and classes.

    Args:
        artifact: an artifact directory.
        out: the repository for `tritonserver --model-repository`; created if absent.

    Returns:
        The model's folder, `out`/<name>.

    Raises:
        ArtifactError: the artifact is damaged.
        TritonError: it has no file for Triton, a class name has a line break, or the existing model differs.
        UnwritableError, OSError: `out` cannot be written; no partial result is left there.
    """
    manifest = read_manifest(artifact)
    backend = _choose(manifest)
    if backend.source == ONNX_FILE and manifest.takes_one_image:
        raise TritonError(f"{artifact}: its {ONNX_FILE} takes one image at a time; Triton's batches need any number")
    check_file(artifact, manifest, backend.source)
    labels, contract = _labels(manifest.classes), _contract(manifest, backend)
    check_writable(out)
    folder, version = out / manifest.name, str(manifest.version)
    if folder.exists():
        _check_agrees(folder, contract, labels)
        if (there := folder / version / backend.file).exists():
            return _same(folder, there, manifest.files[backend.source].sha256)
    with _staging(out, manifest.name) as staging:
        (staging / version).mkdir()
        shutil.copyfile(artifact / backend.source, staging / version / backend.file)
        if folder.exists():
            (staging / version).rename(folder / version)
        else:
            (staging / CONFIG_FILE).write_text("\n".join([*contract, *_TUNABLE, ""]))
            (staging / LABELS_FILE).write_text(labels, encoding="utf-8", newline="\n")
            staging.rename(folder)
    return folder


_TUNABLE = (
    f"max_batch_size: {MAX_BATCH_SIZE}",
    f"dynamic_batching {{ max_queue_delay_microseconds: {MAX_QUEUE_DELAY_US} }}",
    "instance_group { kind: KIND_AUTO }",  # on GPUs if there are any, else on the CPU
    "version_policy { all { } }",
)


def _choose(manifest: Manifest) -> Backend:
    for backend in BACKENDS:
        if backend.source in manifest.files:
            return backend
    wanted = " nor ".join(backend.source for backend in BACKENDS)
    raise TritonError(f"{manifest.name}:{manifest.version} has neither {wanted}; Triton needs one of them")


def _contract(manifest: Manifest, backend: Backend) -> list[str]:
    """Lines of config.pbtxt that every version must match, one for each tensor."""
    image = ", ".join(map(str, manifest.input.shape))  # the batch dimension is left out with a max_batch_size
    scores = f"data_type: TYPE_FP32 dims: [ {len(manifest.classes)} ]"
    return [
        f'name: "{manifest.name}"',
        f'backend: "{backend.backend}"',
        f'platform: "{backend.platform}"',
        f'input {{ name: "{backend.image}" data_type: TYPE_UINT8 dims: [ {image} ] }}',
        f'output {{ name: "{backend.probabilities}" {scores} label_filename: "{LABELS_FILE}" }}',
        f'output {{ name: "{backend.logits}" {scores} }}',
    ]


def _labels(classes: tuple[str, ...]) -> str:
    for index, name in enumerate(classes):
        if "\n" in name or "\r" in name:
            raise TritonError(f"class {index} is {name!r}; {LABELS_FILE} has a name a line, so no name may break it")
    return "".join(f"{name}\n" for name in classes)


def _check_agrees(folder: Path, contract: list[str], labels: str) -> None:
    config, listed = folder / CONFIG_FILE, folder / LABELS_FILE
    if not config.is_file():
        raise TritonError(f"{folder} is no model of Triton's: it has no {CONFIG_FILE}; choose another repository")
    found = config.read_text().splitlines()
    differences = [f"{config} does not say `{line}`" for line in contract if line not in found]
    if not listed.is_file() or listed.read_text(encoding="utf-8") != labels:
        differences.append(f"{listed} has other classes than this artifact")
    if differences:
        raise TritonError(f"{differences[0]}; all versions of a model share it: choose another name or repository")


def _same(folder: Path, there: Path, sha256: str) -> Path:
    if (found := sha256_of(there)) != sha256:
        raise TritonError(f"{there} is there already with sha256 {found[:12]}..., the artifact's is {sha256[:12]}...")
    return folder


@contextmanager
def _staging(out: Path, name: str) -> Iterator[Path]:
    """A temporary folder on the repository's disk, removed at the end with any content left in it."""
    path = out / f".{name}.{os.getpid()}.tmp"
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
