"""The verbs `convscope export`, `verify`, `evaluate` and `summary`."""

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from export.artifact import newest_version, read_manifest
from export.evaluation_data import load_test, open_classifier
from export.pipeline import FORMATS, export_checkpoint
from export.subject import find_subject
from export.verification import FileReport, verify_artifact
from training.evaluation import Evaluation, logits_of
from training.evaluation_report import write_evaluation


def export(
    checkpoint: Path,
    *,
    formats: str = ",".join(FORMATS),
    name: str | None = None,
    out: Path = Path("artifacts"),
) -> None:
    """Turns a checkpoint into a verified artifact: ONNX and TorchScript, compared with the network on real images.

    For example `convscope export runs/lenet-mnist`.

    Args:
        checkpoint: The directory that `convscope train` wrote.
        formats: Comma-separated: onnx, torchscript.
        name: The artifact's name [default: the checkpoint directory's].
        out: The folder of artifacts; the next free version is taken.
    """
    wanted = [form.strip() for form in formats.split(",") if form.strip()]
    if not wanted or set(wanted) - set(FORMATS):
        raise CycloptsError(msg=f"--formats is {formats!r}; known are {', '.join(FORMATS)}")
    console = _console()
    path = export_checkpoint(checkpoint, out=out, name=name, formats=wanted, report=console.print)
    console.print(f"artifact: {path}", f"next: convscope serve {path}", sep="\n")


def verify(artifact: Path, *, data: str | None = None, data_dir: Path | None = None) -> None:
    """Checks an artifact on this machine: every hash, the golden images, and every file against the network.

    For example `convscope verify artifacts/lenet-mnist --data mnist`.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        data: A data set whose test split is compared too, image by image, and gives an accuracy.
        data_dir: Where data files are looked for first.
    """
    directory = newest_version(artifact)
    manifest = read_manifest(directory)
    test = data and load_test(data, data_dir=data_dir, spec=manifest.input, classes=manifest.classes)
    reports = verify_artifact(directory, test=test or None)
    _console().print(_verification_table(f"{manifest.name}:{manifest.version}", reports))


def evaluate(
    subject: Path,
    *,
    data: str,
    data_dir: Path | None = None,
    out: Path | None = None,
    skip_bad: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measures a checkpoint or an artifact on the test split of a data set.

    For example `convscope evaluate runs/lenet-mnist --data mnist --out evaluation`.

    Args:
        subject: A checkpoint directory or an artifact.
        data: digits, stripes, mnist, fashion-mnist, cifar10, or a folder of class folders.
        data_dir: Where data files are looked for first.
        out: A folder for evaluation.json, confusion.png, reliability.png and mistakes.png.
        skip_bad: Leave damaged files of a folder out.
    """
    judged = open_classifier(subject)
    test = load_test(data, data_dir=data_dir, spec=judged.spec, classes=judged.classes, skip_bad=skip_bad)
    logits = logits_of(lambda images: judged.run(images.numpy())[1], test)
    result = Evaluation.of(logits, test.labels, temperature=judged.temperature)
    before = Evaluation.of(logits, test.labels)
    console, scores = _console(), result.scores
    title = f"{judged.what} on {data}: {result.accuracy:.2%} correct"
    table = Table("class", "images", "recall", "precision", "F1", title=title)
    said = result.confusion.sum(axis=0)
    for index, label in enumerate(judged.classes):
        images, right = scores.images[index], result.confusion[index, index]
        f1 = f"{scores.f1[index]:.1%}" if images + said[index] else "-"
        table.add_row(label, str(images), _share(right, images), _share(right, said[index]), f1)
    table.caption = (
        f"top-5 {result.top5_accuracy:.2%}, loss {result.loss:.4f}, calibration error "
        f"{result.reliability.calibration_error:.2%} (at temperature 1: {before.reliability.calibration_error:.2%})"
    )
    console.print(table)
    if out is not None:
        write_evaluation(
            out,
            result,
            before,
            lambda index: test.images.numpy()[index],
            classes=judged.classes,
            subject=judged.what,
            data=data,
            temperature=judged.temperature,
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
        size: Height and width, of a network by name [default: what it was made for].
        channels: 1 or 3, of a network by name [default: 1 up to 28x28, else 3].
        classes: Class count, of a network by name.
    """
    try:
        found = find_subject(subject, size=size, channels=channels, classes=classes)
    except ValueError as error:
        raise CycloptsError(msg=str(error)) from None
    table = Table(title=found.title, caption=found.caption)
    for heading in ("node", "op", "shape", "parameters", "MACs", "receptive field", "step"):
        left = heading in ("node", "op")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading == "node", overflow="fold")
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
    _console().print(table)


def _verification_table(title: str, reports: list[FileReport]) -> Table:
    table = Table(title=f"{title} verified")
    for heading in ("file", "engine", "images", "largest", "same top-1", "accuracy"):
        table.add_column(heading, justify="left" if heading in ("file", "engine") else "right", no_wrap=True)
    for report in reports:
        parity = report.parity
        table.add_row(
            report.file,
            f"{report.engine} ({report.device})",
            str(parity.images),
            f"{parity.maximum_difference:.1e}",
            f"{parity.top1_agreement:.0%}",
            "" if report.accuracy is None else f"{report.accuracy:.2%}",
        )
    batches, limit = ", ".join(map(str, reports[0].parity.batches)), reports[0].parity.limit
    table.caption = f"differences of probabilities to the network in PyTorch, batches {batches}; the limit is {limit:g}"
    return table


def _share(part: np.int64, whole: np.int64) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
