"""Publishes an ONNX file from elsewhere as an artifact."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from export.artifact import manifest as artifact
from export.artifact.directory import file_entry, publish, stage_artifact
from export.artifact.golden import save_golden
from export.artifact.identity import KEY, FileIdentity, describe
from export.artifact.manifest import INDEPENDENT, Manifest
from export.engines.onnxruntime import OnnxEngine
from export.engines.original import MODEL, ChannelOrder, Conventions, ImportedModel
from export.onnx_import.batch import free_batch
from export.onnx_import.graph import WrappedGraph, explain_fixed_batch, output_kind, softmax_axis, to_proto, wrap
from export.onnx_import.images import verification_images
from export.onnx_import.node_table import inner_values, onnx_node_table
from export.onnx_import.source import OnnxClassifier, OnnxImportError
from export.verify.parity import Parity, ParityError, compare
from export.verify.speed import measure_speed
from models.checkpoint.directory import CheckpointConfig
from models.images.decode import Pixels, preprocess_image, to_pil
from models.images.header import DEFAULT_LIMIT_PIXELS
from models.images.input_spec import InputSpec

_ROUNDING = 0.02  # of a sum of probabilities in half precision


def import_model(
    file: OnnxClassifier,
    *,
    classes: Sequence[str],
    spec: InputSpec,
    out: Path,
    name: str | None = None,
    images: Sequence[Path] = (),
    image_limit_pixels: int = DEFAULT_LIMIT_PIXELS,
    channel_order: ChannelOrder = "RGB",
    classes_from: str = "--classes",
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Wraps an imported classifier, compares the result with the original at batches 1, 2, 7, 64 and 256, and publishes
    it as the next version of `out`/`name`.

    A batch of one image that is frozen in the graph is freed if the result agrees with the original; otherwise the
    artifact runs images one by one, which its `options` record.

    Args:
        file: the classifier.
        classes: names by index; for a file with a single sigmoid, the class of low scores and that of high ones.
        spec: its input specification; mean and std are in the order of RGB.
        out: the folder of artifacts.
        name: the artifact's name; the file's if None.
        images: files and folders to compare on; by default scikit-learn's photographs.
        image_limit_pixels: maximum width x height of an image.
        channel_order: in which the network takes the channels.
        classes_from: source of the names, for messages.
        report: receives a line for each step.

    Returns:
        The artifact directory.

    Raises:
        OnnxImportError: the file does not return class scores for such images, or not one for each name.
        ParityError: its wrapped form gives other results; nothing is published.
        ValueError: an image or the name cannot be used.
    """
    name = artifact.check_name(name or file.path.stem)
    if channel_order == "BGR" and spec.mode != "RGB":
        raise OnnxImportError(f"{file.path} takes grey images, which have no channel order")
    _check_pixels(file, spec)
    samples, source = verification_images(images, spec, image_limit_pixels)
    conventions = Conventions(
        output=file.output, gives=output_kind(file), layout=file.layout, channel_order=channel_order
    )
    original = ImportedModel(file.content, spec, conventions)
    if file.batch is None and not original.takes_any_batch(samples.images[:3]):
        file, conventions = replace(file, batch=1), replace(conventions, original_batch=1)
        original = ImportedModel(file.content, spec, conventions)
    scores = _check_outputs(file, original, conventions, samples.images, classes, classes_from, report)
    add_batch = original.drops_batch(samples.images[:1])
    config = CheckpointConfig(model=MODEL, classes=tuple(classes), input=spec)
    with stage_artifact(out, name) as staging:
        (staging.path / artifact.ORIGINAL_FILE).write_bytes(file.content)
        entry = file_entry(staging.path / artifact.ORIGINAL_FILE)
        identity = FileIdentity(name=name, version=staging.version, weights_sha256=entry.sha256)
        path = staging.path / artifact.ONNX_FILE
        properties = {KEY: describe(config, identity)}

        def make(*, freed: bool = False, single: bool = False) -> WrappedGraph:
            graph = wrap(file, spec, conventions, scores=scores, add_batch=add_batch, single=single)
            if freed and file.batch is not None:
                path.write_bytes(to_proto(graph, properties).SerializeToString())
                free_batch(graph, inner_values(graph, path, spec, file.batch), file.batch)
            path.write_bytes(to_proto(graph, properties).SerializeToString())
            return graph

        report(f"{path.name}: comparing it with the original on {source}")
        graph, parity, single = _verified(file, path, make, original, samples.images, report)
        engine = OnnxEngine(path, device="cpu")
        raw = np.stack([preprocess_image(to_pil(image), spec) for image in samples.raw])
        save_golden(staging.path, samples.raw, original.run(raw)[0])
        rates = measure_speed({path.name: engine.run, artifact.ORIGINAL_FILE: original.run}, samples.images)
        files = {
            artifact.ONNX_FILE: file_entry(path, asdict(parity), images_per_s=rates[path.name]),
            artifact.ORIGINAL_FILE: entry,
            artifact.GOLDEN_FILE: file_entry(staging.path / artifact.GOLDEN_FILE),
        }
        options: dict[str, Any] = {"file": file.path.name, **conventions.to_options(), "opset": file.opset}
        if file.weight_files:
            options["weight_files"] = list(file.weight_files)
        if single:
            options["batch"] = 1
        if conventions.gives == "sigmoid" and scores > 1:
            options["scores"] = INDEPENDENT
        manifest = Manifest(
            name=name,
            version=0,  # publish() sets it
            classes=config.classes,
            input=spec,
            temperature=config.temperature,
            model=MODEL,
            options=options,
            nodes=onnx_node_table(graph, path, spec),
            files=files,
            metrics={},
            dataset={"compared_on": source},
            revision=None,
            versions=_versions(file),
            reference={"accuracy": None, "images_per_s": rates[artifact.ORIGINAL_FILE]},
        )
        return publish(staging, manifest)


def _check_pixels(file: OnnxClassifier, spec: InputSpec) -> None:
    if file.dtype == "UINT8" and (any(spec.mean) or not np.allclose(spec.std, 1 / 255)):
        raise OnnxImportError(
            f"{file.path} takes uint8 images, which it normalises itself; give --mean 0 --std 1/255, "
            "which leave pixels as they are"
        )


def _check_outputs(
    file: OnnxClassifier,
    original: ImportedModel,
    conventions: Conventions,
    images: Pixels,
    classes: Sequence[str],
    classes_from: str,
    report: Callable[[str], None],
) -> int:
    """The number of scores of an image. The original runs once, as its file may not declare shape and kind."""
    try:
        found = original.outputs(images[:32])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise OnnxImportError(f"{file.path} does not run on such images: {' '.join(str(error).split())}") from None
    if found.ndim != 2:
        raise OnnxImportError(f"{file.path}: {file.output!r} of one image is {found.shape[1:]}; wanted a score a class")
    count, gives = int(found.shape[1]), conventions.gives
    if count == 1 and gives != "sigmoid":
        raise OnnxImportError(f"{file.path}: {file.output!r} is one score without a sigmoid; wanted a score a class")
    if max(2, count) != len(classes):
        pair = " (of two classes)" if count == 1 else ""
        raise OnnxImportError(f"{file.path} gives {count} scores{pair}, but {classes_from} has {len(classes)} names")
    if not np.isfinite(found).all():
        raise OnnxImportError(f"{file.path}: {file.output!r} of such images is not finite")
    sums = found.sum(axis=1)
    if gives == "probabilities" and not np.allclose(sums, 1, atol=_ROUNDING):
        raise OnnxImportError(
            f"{file.path}: its softmax is over axis {softmax_axis(file)}; wanted 1, the classes (the "
            f"scores of an image sum to {sums[0]:.3g})"
        )
    within = bool((found >= 0).all() and (found <= 1).all())
    if gives == "logits" and within and np.allclose(sums, 1, atol=1e-3):
        raise OnnxImportError(
            f"{file.path}: {file.output!r} sums to 1 for every image, so it is probabilities, but does not come out of "
            "a Softmax; name the logits with --output"
        )
    if gives == "logits" and within:
        report(
            f"{file.output} is taken for logits, but lies between 0 and 1 for every image; if these are scores of a "
            "sigmoid, name what comes before it with --output"
        )
    return count


def _verified(
    file: OnnxClassifier,
    path: Path,
    make: Callable[..., WrappedGraph],
    original: ImportedModel,
    images: Pixels,
    report: Callable[[str], None],
) -> tuple[WrappedGraph, Parity, bool]:
    """The first form of the graph that agrees with the original, and True if that form takes one image only."""

    def attempt(**form: bool) -> tuple[WrappedGraph, Parity]:
        graph = make(**form)
        try:
            return graph, compare(OnnxEngine(path, device="cpu").run, original.run, images)
        except ParityError as error:
            cause = "" if str(error).startswith("at batch 1 ") else explain_fixed_batch(graph)
            raise ParityError(f"{error}{cause}; nothing was imported") from None

    try:
        return *attempt(), False
    except ParityError as error:
        if file.batch is None:
            raise
        first = error
    try:
        graph, parity = attempt(freed=True)
    except Exception as error:  # the rewritten graph may be unsound
        if file.batch != 1:
            raise first from error
    else:
        report(f"{path.name}: a batch of {file.batch} is fixed in {file.path.name}; freed, and compared at all batches")
        return graph, parity, False
    graph, parity = attempt(single=True)
    report(f"{path.name}: a batch of 1 is fixed in {file.path.name} and cannot be freed; images run one by one")
    return graph, parity, True


def _versions(file: OnnxClassifier) -> dict[str, str]:
    """Versions of the file's producer, if it is named, and of the libraries that wrapped it."""
    writer = {file.model.producer_name: file.model.producer_version} if file.model.producer_name else {}
    return {**writer, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
