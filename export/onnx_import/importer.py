"""Publishes an ONNX file from elsewhere as an artifact."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.artifact import manifest as artifact
from export.artifact.directory import file_entry, publish, stage_artifact
from export.artifact.golden import save_golden
from export.artifact.identity import KEY, FileIdentity, describe
from export.artifact.manifest import Manifest
from export.engines.onnxruntime import OnnxEngine
from export.engines.original import MODEL, ImportedModel
from export.onnx_import.graph import WrappedGraph, explain_fixed_batch, to_proto, wrap
from export.onnx_import.images import verification_images
from export.onnx_import.node_table import onnx_node_table
from export.onnx_import.source import OnnxClassifier, OnnxImportError
from export.verify.parity import Parity, ParityError, compare
from export.verify.speed import measure_speed
from models.checkpoint.directory import CheckpointConfig
from models.images.decode import Pixels, preprocess_image, to_pil
from models.images.input_spec import InputSpec


def import_model(
    file: OnnxClassifier,
    *,
    classes: Sequence[str],
    spec: InputSpec,
    out: Path,
    name: str | None = None,
    images: Sequence[Path] = (),
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Wraps an imported classifier, compares the result with the original at batches 1, 2, 7, 64 and 256, and publishes
    it as the next version of `out`/`name`.

    Args:
        file: the classifier.
        classes: names by index.
        spec: its input specification.
        out: the folder of artifacts.
        name: the artifact's name; the file's if None.
        images: files and folders to compare on; by default scikit-learn's photographs.
        report: receives a line for each step.

    Returns:
        The artifact directory.

    Raises:
        OnnxImportError: the file does not return class scores for such images, or not one for each name.
        ParityError: its wrapped form gives other results; nothing is published.
        ValueError: an image or the name cannot be used.
    """
    name = artifact.check_name(name or file.path.stem)
    samples, source = verification_images(images, spec)
    graph = wrap(file, spec)
    original = ImportedModel(file.content, spec, output=file.output, output_kind=graph.output_kind)
    _check_outputs(file, original, graph.output_kind, samples.images, classes)
    config = CheckpointConfig(model=MODEL, classes=tuple(classes), input=spec)
    with stage_artifact(out, name) as staging:
        (staging.path / artifact.ORIGINAL_FILE).write_bytes(file.content)
        entry = file_entry(staging.path / artifact.ORIGINAL_FILE)
        identity = FileIdentity(name=name, version=staging.version, weights_sha256=entry.sha256)
        path = staging.path / artifact.ONNX_FILE
        path.write_bytes(to_proto(graph, {KEY: describe(config, identity)}).SerializeToString())
        report(f"{path.name}: comparing it with the original on {source}")
        engine = OnnxEngine(path, device="cpu")
        parity = _compare(engine, original, samples.images, graph)
        raw = np.stack([preprocess_image(to_pil(image), spec) for image in samples.raw])
        save_golden(staging.path, samples.raw, original.run(raw)[0])
        rates = measure_speed({path.name: engine.run, artifact.ORIGINAL_FILE: original.run}, samples.images)
        files = {
            artifact.ONNX_FILE: file_entry(path, asdict(parity), images_per_s=rates[path.name]),
            artifact.ORIGINAL_FILE: entry,
            artifact.GOLDEN_FILE: file_entry(staging.path / artifact.GOLDEN_FILE),
        }
        manifest = Manifest(
            name=name,
            version=0,  # publish() sets it
            classes=config.classes,
            input=spec,
            temperature=config.temperature,
            model=MODEL,
            options={"file": file.path.name, "output": file.output, "gives": graph.output_kind, "opset": file.opset},
            nodes=onnx_node_table(graph, path, spec),
            files=files,
            metrics={},
            dataset={"compared_on": source},
            revision=None,
            versions=_versions(file),
            reference={"accuracy": None, "images_per_s": rates[artifact.ORIGINAL_FILE]},
        )
        return publish(staging, manifest)


def _check_outputs(
    file: OnnxClassifier, original: ImportedModel, output_kind: str, images: Pixels, classes: Sequence[str]
) -> None:
    """Runs the original once, since its file may not declare its output's shape and kind."""
    try:
        found = original.outputs(images[:32])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise OnnxImportError(f"{file.path} does not run on such images: {' '.join(str(error).split())}") from None
    if found.ndim != 2:
        raise OnnxImportError(f"{file.path}: {file.output!r} of one image is {found.shape[1:]}; wanted a score a class")
    if found.shape[1] != len(classes):
        raise OnnxImportError(f"{file.path} gives {found.shape[1]} scores, but --classes has {len(classes)} names")
    if not np.isfinite(found).all():
        raise OnnxImportError(f"{file.path}: {file.output!r} of such images is not finite")
    if output_kind == "logits" and (found >= 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-3):
        raise OnnxImportError(
            f"{file.path}: {file.output!r} sums to 1 for every image, so it is probabilities, but does not come out of "
            "a Softmax; name the logits with --output"
        )


def _compare(engine: OnnxEngine, original: ImportedModel, images: Pixels, graph: WrappedGraph) -> Parity:
    try:
        return compare(engine.run, original.run, images)
    except ParityError as error:
        cause = "" if str(error).startswith("at batch 1 ") else explain_fixed_batch(graph)
        raise ParityError(f"{error}{cause}; nothing was imported") from None


def _versions(file: OnnxClassifier) -> dict[str, str]:
    """Versions of the file's producer, if it is named, and of the libraries that wrapped it."""
    writer = {file.model.producer_name: file.model.producer_version} if file.model.producer_name else {}
    return {**writer, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
