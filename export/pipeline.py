"""From a checkpoint directory to a published artifact."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from export import artifact
from export.artifact import FileEntry, Manifest
from export.deployable import Deployable
from export.engine import Engine, Floats
from export.engine_onnx import OnnxEngine
from export.engine_torchscript import TorchScriptEngine
from export.golden import save_golden
from export.onnx_file import write_onnx
from export.parity import BATCHES, ParityError, Run, compare
from export.torchscript_file import write_torchscript
from models.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint
from models.geometry import node_table
from models.inputs import Pixels, fit_image, to_image
from models.nodes import Node
from models.samples import SAMPLES_FILE, Samples, load_samples

FORMATS = ("onnx", "torchscript")
_FILES = {"onnx": artifact.ONNX_FILE, "torchscript": artifact.TORCHSCRIPT_FILE}
_ENGINES: dict[str, Callable[[Path], Engine]] = {
    "onnx": lambda path: OnnxEngine(path, device="cpu"),
    "torchscript": lambda path: TorchScriptEngine(path, device="cpu"),
}


def export_checkpoint(
    directory: Path,
    *,
    out: Path,
    name: str | None = None,
    formats: Sequence[str] = FORMATS,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Exports a checkpoint, compares every file with the trained network on the checkpoint's sample images, and
    publishes the result as the next version of `out`/`name`.

    Args:
        directory: the checkpoint.
        out: the folder of artifacts.
        name: of the artifact; the checkpoint directory's if None.
        formats: of `FORMATS`, at least one.
        report: is told each step in a line.

    Returns:
        The artifact directory.

    Raises:
        CheckpointError, ValueError: the checkpoint cannot be read or exported.
        ParityError: a file differs from the network; then nothing is published.
    """
    if unknown := [form for form in formats if form not in FORMATS]:
        raise ValueError(f"no format is called {unknown[0]!r}; known are {', '.join(FORMATS)}")
    if not formats:
        raise ValueError(f"no formats were given; known are {', '.join(FORMATS)}")
    name = artifact.check_name(name or directory.resolve().name)
    checkpoint = load_checkpoint(directory)
    samples = load_samples(directory / SAMPLES_FILE)
    nodes = node_table(checkpoint.network, checkpoint.config.input)
    with artifact.staged(out, name) as staging:
        files: dict[str, FileEntry] = {}
        for form in dict.fromkeys(formats):
            path = staging / _FILES[form]
            nodes = _write(form, checkpoint, nodes, samples, path)
            files[path.name] = _verified(form, checkpoint, samples, path, report)
        shutil.copyfile(directory / WEIGHTS_FILE, staging / artifact.WEIGHTS_FILE)
        _write_golden(checkpoint, samples, staging)
        for extra in (artifact.WEIGHTS_FILE, artifact.GOLDEN_FILE):
            files[extra] = artifact.file_entry(staging / extra)
        return artifact.publish(staging, _manifest(name, checkpoint, nodes, files))


def reference(checkpoint: Checkpoint) -> Run:
    """The trained network itself, in float32 on the CPU, as something to compare files with."""
    deployable = Deployable(checkpoint)

    def run(images: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            probabilities, logits = deployable(torch.from_numpy(np.array(images)))
        return probabilities.numpy(), logits.numpy()

    return run


def _write(
    form: str, checkpoint: Checkpoint, nodes: tuple[Node, ...], samples: Samples, path: Path
) -> tuple[Node, ...]:
    if form == "onnx":
        return write_onnx(checkpoint, nodes, path)
    write_torchscript(checkpoint, samples.images[:2], path)
    return nodes


def _write_golden(checkpoint: Checkpoint, samples: Samples, staging: Path) -> None:
    images = np.stack([fit_image(to_image(image), checkpoint.config.input) for image in samples.raw])
    save_golden(staging, samples.raw, reference(checkpoint)(images)[0])


def _verified(
    form: str, checkpoint: Checkpoint, samples: Samples, path: Path, report: Callable[[str], None]
) -> FileEntry:
    try:
        parity = compare(_ENGINES[form](path).run, reference(checkpoint), samples.images, batches=BATCHES)
    except ParityError as error:
        raise ParityError(f"{path.name}: {error}; nothing was exported") from None
    report(
        f"{path.name}: {parity.images} images at batches {', '.join(map(str, parity.batches))}: "
        f"largest difference {parity.maximum_difference:.1e} (limit {parity.limit:g}), same top-1 for all"
    )
    return artifact.file_entry(path, asdict(parity))


def _manifest(name: str, checkpoint: Checkpoint, nodes: tuple[Node, ...], files: dict[str, FileEntry]) -> Manifest:
    config = checkpoint.config
    return Manifest(
        name=name,
        version=0,  # publish() numbers it
        classes=config.classes,
        input=config.input,
        temperature=config.temperature,
        model=config.model,
        options=config.options,
        nodes=nodes,
        files=files,
        metrics=config.metrics,
        dataset=config.dataset,
        revision=config.revision,
        versions=config.versions,
    )
