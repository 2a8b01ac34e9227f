"""The verbs `convscope export`, `verify`, `evaluate` and `summary`."""

import shlex
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from export.artifact.directory import locate, newest_version
from export.artifact.formats import DEFAULT_FORMATS, choose_formats
from export.artifact.manifest import INDEPENDENT_SCORES, ORIGINAL_FILE, Manifest, read_manifest
from export.verify.limits import Limits
from models.checkpoint.names import CONFIG_FILE, check_finished
from models.errors import UserError
from models.networks.names import check_network_name
from training.cli.arguments import usage_errors
from training.cli.console import make_console, make_table, print_table
from training.data.datasets import check_dataset
from training.data.options import SOURCE_DEFAULTS, SourceOptions

# Every verb checks its arguments before it imports torch, which takes seconds.


def export(
    checkpoint: Path,
    *,
    formats: str = ",".join(DEFAULT_FORMATS),
    precision: str = "fp32",
    data: str | None = None,
    source: Annotated[SourceOptions, Parameter(name="*")] = SOURCE_DEFAULTS,
    name: str | None = None,
    out: Path = Path("artifacts"),
    triton: Path | None = None,
    bentoml: Annotated[bool, Parameter(negative="")] = False,
    limit_difference: float = Limits.difference,
    limit_points: float = 100 * Limits.accuracy_loss,
) -> None:
    """Turns a checkpoint into a verified artifact: ONNX and TorchScript, compared with the network on real images.

    For example `convscope export runs/lenet-mnist`, or with smaller files that are kept only if they stay accurate
    `convscope export runs/resnet20-cifar10 --precision fp32,fp16,int8 --data cifar10`.

    Args:
        checkpoint: The directory that `convscope train` wrote.
        formats: Comma-separated: onnx, torchscript, pt2 (torch.export), aoti (compiled for this kind of machine only).
        precision: Comma-separated: fp32, fp16 (ONNX and TorchScript), bf16 (TorchScript), int8 (ONNX); all below fp32
            need --data.
        data: The checkpoint's data set: its test split measures the accuracy of every file, its training split
            calibrates int8.
        name: The artifact's name [default: the checkpoint directory's].
        out: The folder of artifacts; export writes the next free version.
        triton: A Triton model repository to which the artifact is added as a model.
        bentoml: Also register the artifact in BentoML's model store, as NAME:VERSION.
        limit_difference: Maximum difference of a probability from the trained network, for fp32.
        limit_points: Maximum loss of accuracy in percentage points for fp16, bf16 and int8; worse files are left out,
            unless so small a loss may be chance in so few test images.
    """
    wanted, precisions = _words(formats), _words(precision)
    with usage_errors():
        choose_formats(wanted, precisions, has_data=data is not None)
        source.check()
        limits = _limits(limit_difference, limit_points)
    check_finished(checkpoint)
    if data is not None:
        check_dataset(data)
    from export.cli.tables import manifest_table
    from export.pipeline.data import load_export_data
    from export.pipeline.export import export_checkpoint
    from export.writers.triton import write_triton
    from models.checkpoint.directory import read_config

    console, images = make_console(), None
    if data is not None:
        images = load_export_data(data, read_config(checkpoint), source)
        for remark in images.remarks:
            console.print(remark)
    path = export_checkpoint(
        checkpoint,
        out=out,
        name=name,
        formats=wanted,
        precisions=precisions,
        data=images,
        limits=limits,
        report=console.print,
    )
    print_table(console, manifest_table(read_manifest(path)))
    console.print(f"artifact: {path}")
    if triton is not None:
        console.print(f"Triton model: {write_triton(path, triton)}")
    if bentoml:
        from export.artifact.store import register  # BentoML takes a second to import

        console.print(f"BentoML model: {register(path)}")
    console.print(f"next: convscope serve {shlex.quote(str(path))}")


def verify(
    artifact: Path,
    *,
    data: str | None = None,
    source: Annotated[SourceOptions, Parameter(name="*")] = SOURCE_DEFAULTS,
    limit_difference: float = Limits.difference,
    limit_points: float = 100 * Limits.accuracy_loss,
) -> None:
    """Checks an artifact on this machine: every hash, the golden images, and every file against the network.

    For example `convscope verify artifacts/lenet-mnist --data mnist`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        data: A data set whose test split is also compared, image by image, and measures the accuracy.
        limit_difference: As for export.
        limit_points: As for export.
    """
    with usage_errors():
        source.check()
        limits = _limits(limit_difference, limit_points)
    directory = newest_version(artifact)
    manifest = read_manifest(directory)
    if data is not None:
        check_dataset(data)
    from export.cli.tables import verification_table
    from export.pipeline.data import load_test
    from export.verify.reference import REFERENCE
    from export.verify.verification import verify_artifact

    test = data and load_test(data, manifest, source)
    verified = verify_artifact(directory, test=test.images if test else None, limits=limits)
    beside = ORIGINAL_FILE if ORIGINAL_FILE in manifest.files else REFERENCE
    remarks = test.remarks if test else ()
    title = f"{manifest.name}:{manifest.version}"
    print_table(make_console(), verification_table(title, verified, beside, remarks))


def evaluate(
    subject: Path,
    *,
    data: str,
    source: Annotated[SourceOptions, Parameter(name="*")] = SOURCE_DEFAULTS,
    out: Path | None = None,
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measures a checkpoint or an artifact on the test split of a data set.

    For example `convscope evaluate runs/lenet-mnist --data mnist --out evaluation`.

    Args:
        subject: A checkpoint directory or an artifact.
        data: digits, stripes, mnist, fashion-mnist, cifar10, or a folder of class folders, directly or in its test/;
            some of the network's classes may be missing.
        out: A folder for evaluation.json, predictions.csv (a row for every image, the most confident mistakes first),
            confusion.png, reliability.png and mistakes.png.
        skip_bad: Leave damaged files of a folder out.
    """
    with usage_errors():
        source.check()
    if not (subject / CONFIG_FILE).is_file():
        newest_version(subject)
    check_dataset(data)
    import torch

    from export.pipeline.data import load_test, open_model
    from training.evaluate.evaluation import Evaluation, logits_of
    from training.evaluate.report import write_evaluation

    model = open_model(subject)
    loaded = load_test(data, model.network, source, skip_bad=skip_bad)
    test = loaded.images
    logits = logits_of(lambda images: model.run(images.numpy())[1], test)
    result = Evaluation.of(logits, test.labels, temperature=model.network.temperature)
    before = Evaluation.of(logits, test.labels)
    console, scores = make_console(), result.scores
    title = f"{model.title} on {data}: {result.accuracy:.2%} correct of {len(test):,} test images"
    table = make_table("class", "images", "recall", "precision", "F1", title=title, left=("class",))
    predicted = result.confusion.sum(axis=0)
    for index, label in enumerate(model.network.classes):
        images, right = scores.images[index], result.confusion[index, index]
        f1 = f"{scores.f1[index]:.1%}" if images + predicted[index] else "-"
        table.add_row(label, str(images), _share(right, images), _share(right, predicted[index]), f1)
    top5 = f"top-5 {result.top5_accuracy:.2%}, " if result.tells_top5 else ""
    worst = model.network.classes[result.worst_class]
    figures = (
        f"lowest recall {result.worst_recall:.2%} ({worst}), {top5}loss {result.loss:.4f}, calibration error "
        f"{result.reliability.calibration_error:.2%} (at temperature 1: {before.reliability.calibration_error:.2%})"
    )
    remarks = [figures, *loaded.remarks]
    if isinstance(model.network, Manifest) and model.network.independent_scores:
        remarks.append(f"{INDEPENDENT_SCORES}; loss and calibration are those of a softmax of the logits")
    table.caption = "; ".join(remarks)
    print_table(console, table)
    if out is not None:
        write_evaluation(
            out,
            result,
            before,
            lambda index: test.take(torch.from_numpy(index)).in_memory().images.numpy(),
            classes=model.network.classes,
            subject=model.title,
            data=data,
            temperature=model.network.temperature,
            files=loaded.names,
        )
        console.print(f"evaluation: {out}")


def summary(
    subject: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    classes: int = 10,
) -> None:
    """Lists the layers of a network: shape, parameters, multiply-accumulates, receptive field, step in input pixels.

    For example `convscope summary resnet18 --size 224`.

    Args:
        subject: A network's name, a checkpoint directory or an artifact.
        size: Height and width, for a network by name [default: the size it was designed for].
        channels: 1 or 3, for a network by name [default: 1 up to 28x28, else 3].
        classes: Number of classes, for a network by name.
    """
    with usage_errors():
        path = locate(Path(subject))
        if not path.is_dir():
            check_network_name(subject)
        elif not (path / CONFIG_FILE).is_file():
            newest_version(path)
    from export.cli.subject import summarize

    with usage_errors():
        found = summarize(subject, size=size, channels=channels, classes=classes)
    headings = ("node", "op", "shape", "parameters", "MACs", "receptive field", "step")
    table = make_table(*headings, title=found.title, left=("node", "op"))
    table.caption = found.caption
    for node in found.nodes:
        table.add_row(
            node.name,
            node.op,
            "x".join(map(str, node.shape)),
            f"{node.parameters:,}" if node.parameters else "",
            f"{node.macs:,}" if node.macs else "",
            "x".join(map(str, node.receptive_field)) if node.receptive_field else "",
            "x".join(map(str, node.jump)) if node.jump else "",
        )
    print_table(make_console(), table)


def _limits(difference: float, points: float) -> Limits:
    if not (difference >= 0 and points >= 0):
        raise UserError("--limit-difference and --limit-points must be at least 0")
    return Limits(difference=difference, accuracy_loss=points / 100)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _share(part: np.int64, whole: np.int64) -> str:
    return f"{part / whole:.1%}" if whole else "-"
