"""From a checkpoint directory to a published artifact."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact import manifest as artifact
from export.artifact.directory import file_entry, publish, stage_artifact
from export.artifact.formats import DEFAULT_FORMATS, OPENVINO_RUNS, GraphFormat, choose_formats
from export.artifact.golden import save_golden
from export.artifact.identity import FileIdentity
from export.artifact.manifest import FileEntry, Manifest, RunEntry
from export.engines.machine import this_machine
from export.engines.openvino import openvino_unavailable_reason
from export.engines.protocol import Run
from export.engines.selection import open_file
from export.verify.accuracy import AccuracyLoss, Correct
from export.verify.check import CheckedFile, check_graph, checking_device, correct_of
from export.verify.limits import Limits
from export.verify.parity import ParityError
from export.verify.reference import REFERENCE, reference
from export.verify.speed import measure_speed
from export.writers.registry import WRITERS, WriteRequest
from export.writers.torchscript import UnsupportedPrecision
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.checkpoint.names import WEIGHTS_FILE
from models.checkpoint.samples import SAMPLES_FILE, VerificationImages, load_samples
from models.errors import UserError
from models.graph.node import Node
from models.graph.node_table import node_table
from models.graph.trace_check import check_trace
from models.images.decode import Pixels, preprocess_image, to_pil
from training.data.streaming import Dataset


@dataclass(frozen=True)
class ExportData:
    """Images of the training data set, as the network takes them.

    Attributes:
        test: of the test split, for accuracies.
        calibration: of the training split, for the ranges of int8; uint8 (N, H, W, C).
        remarks: doubts about them, for the user.
    """

    test: Dataset
    calibration: Pixels
    remarks: tuple[str, ...] = ()


def export_checkpoint(
    directory: Path,
    *,
    out: Path,
    name: str | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    precisions: Sequence[str] = ("fp32",),
    data: ExportData | None = None,
    limits: Limits | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Exports a checkpoint, compares every file with the trained network on the checkpoint's sample images, and
    publishes the result as the next version of `out`/`name`.

    An fp32 file that differs fails the export. A file of lower precision is left out, with the reason in the manifest,
    if it loses too much accuracy or an operation of the network does not support it; int8 also if it is not faster than
    fp32 on this machine, at batch 1 and at batch 32.

    Args:
        directory: the checkpoint.
        out: the folder of artifacts.
        name: the artifact's name; the checkpoint directory's if None.
        formats: at least one of `FORMATS`.
        precisions: any of `PRECISIONS`; int8 is an ONNX file only, bf16 TorchScript only, fp16 both.
        data: for accuracies; precisions below fp32 need it.
        limits: maximum deviations from the trained network.
        report: receives a line for each step.

    Returns:
        The artifact directory.

    Raises:
        CheckpointError, ValueError: the checkpoint cannot be read or exported, or the arguments are inconsistent.
        ParityError: a file differs from the network; nothing is published.
    """
    forms = choose_formats(formats, precisions, has_data=data is not None)
    name, limits = artifact.check_name(name or directory.resolve().name), limits or Limits()
    checkpoint = load_checkpoint(directory)
    samples = load_samples(directory / SAMPLES_FILE)
    spec = checkpoint.config.input
    check_trace(checkpoint.network, (spec.channels, spec.height, spec.width))
    nodes = node_table(checkpoint.network, spec)
    network = reference(checkpoint)
    with stage_artifact(out, name) as staging:
        shutil.copyfile(directory / WEIGHTS_FILE, staging.path / artifact.WEIGHTS_FILE)
        weights = file_entry(staging.path / artifact.WEIGHTS_FILE)
        identity = FileIdentity(name=name, version=staging.version, weights_sha256=weights.sha256)
        checked: dict[str, CheckedFile] = {}
        unwritable: dict[str, str] = {}
        test = None if data is None else data.test
        for form in forms:
            path = staging.path / form.file
            try:
                request = WriteRequest(
                    checkpoint=checkpoint,
                    nodes=nodes,
                    example=samples.images[:2],
                    calibration=None if data is None else data.calibration,
                    identity=identity,
                    folder=staging.path,
                )
                nodes = WRITERS[form.file](request, path)
            except UnsupportedPrecision as error:
                unwritable[form.file] = str(error)
                report(f"{form.file}: not kept: {error}")
                continue
            report(f"{form.file}: comparing it with the trained network")
            engine = open_file(form.engine, path, device=checking_device(form))
            try:
                checked[form.file] = check_graph(engine, form, network, samples.images, test, limits)
            except ParityError as error:
                raise ParityError(f"{form.file}: {error}; nothing was exported") from None
        for run in _openvino_runs(checked, precisions, report):
            report(f"{run.key}: comparing it with the trained network")
            engine = open_file(run.engine, staging.path / run.file, precision=run.precision, device="cpu")
            checked[run.key] = check_graph(engine, run, network, samples.images, test, limits)
        runs = {file: one.engine.run for file, one in checked.items()}
        rates = measure_speed({REFERENCE: network, **runs}, samples.images)
        correct = None if data is None else correct_of(network, data.test)
        dropped = _judge(checked, rates, correct, limits, report)
        for file, reason in dropped.items():
            if file == checked[file].form.file:  # a further way to run a file has none of its own
                (staging.path / file).unlink()
            report(f"{file}: not kept: {reason}")
        kept = {key: one for key, one in checked.items() if not {key, one.form.file} & dropped.keys()}
        files = {
            file: file_entry(
                staging.path / file,
                asdict(one.parity),
                accuracy=one.accuracy,
                images_per_s=rates[file],
                machine=this_machine() if one.form.bound else {},
            )
            for file, one in kept.items()
            if file == one.form.file
        }
        further = {
            key: RunEntry(parity=asdict(one.parity), accuracy=one.accuracy, images_per_s=rates[key])
            for key, one in kept.items()
            if key != one.form.file
        }
        _write_golden(checkpoint, network, samples, staging.path)
        files[artifact.WEIGHTS_FILE] = weights
        files[artifact.GOLDEN_FILE] = file_entry(staging.path / artifact.GOLDEN_FILE)
        accuracy = None if correct is None else float(correct.mean())
        trained = {"accuracy": accuracy, "images_per_s": rates[REFERENCE]}
        return publish(staging, _manifest(name, checkpoint, nodes, files, further, unwritable | dropped, trained))


def _openvino_runs(
    checked: Mapping[str, CheckedFile], precisions: Sequence[str], report: Callable[[str], None]
) -> list[GraphFormat]:
    """The ways to run written files with OpenVINO below fp32 that can be tried here.

    Raises:
        UserError: a precision is wanted that has no file, and OpenVINO cannot run one in it here.
    """
    found: list[GraphFormat] = []
    for run in OPENVINO_RUNS:
        if run.precision == "fp32" or run.precision not in precisions or run.file not in checked:
            continue  # fp32 is compared with the golden images whenever it is opened
        why_not = openvino_unavailable_reason(run.precision)
        if why_not is None:
            found.append(run)
        elif run.precision not in {one.form.precision for one in checked.values()}:
            raise UserError(
                f"there is no {run.precision} file in these formats, and {run.key} cannot be tried: {why_not}"
            )
        elif openvino_unavailable_reason() is None:  # who has not installed it does not want it
            report(f"{run.key}: not tried: {why_not}")
    return found


def _write_golden(checkpoint: Checkpoint, network: Run, samples: VerificationImages, staging: Path) -> None:
    images = np.stack([preprocess_image(to_pil(image), checkpoint.config.input) for image in samples.raw])
    save_golden(staging, samples.raw, network(images)[0])


def _judge(
    checked: dict[str, CheckedFile],
    rates: dict[str, dict[str, float]],
    correct: Correct | None,
    limits: Limits,
    report: Callable[[str], None],
) -> dict[str, str]:
    """The reasons why files of lower precision are not kept; reports how accurate the others are."""
    reasons: dict[str, str] = {}
    for file, one in checked.items():
        if one.form.precision == "fp32" or correct is None or one.correct is None:
            continue
        loss = AccuracyLoss.between(correct, one.correct)
        if reason := loss.refusal(limits):
            reasons[file] = reason
            continue
        report(f"{file}: {loss.describe()}")
        if one.form.file == artifact.INT8_FILE and one.form.engine == "onnxruntime":
            slower = {size: rate for size, rate in rates[file].items() if rate <= rates[artifact.ONNX_FILE][size]}
            if slower:
                size, rate = next(iter(slower.items()))
                whole = rates[artifact.ONNX_FILE][size]
                reasons[file] = f"no faster here: {rate:,.0f} images/s at batch {size}, {whole:,.0f} in fp32"
    return reasons


def _manifest(
    name: str,
    checkpoint: Checkpoint,
    nodes: tuple[Node, ...],
    files: dict[str, FileEntry],
    runs: dict[str, RunEntry],
    dropped: dict[str, str],
    trained: dict[str, Any],
) -> Manifest:
    config = checkpoint.config
    return Manifest(
        name=name,
        version=0,  # publish() sets it
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
        dropped=dropped,
        runs=runs,
        reference=trained,
    )
