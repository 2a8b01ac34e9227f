"""Plots of a run and of an evaluation, without global state: no pyplot, no style."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from models.files import atomic_write
from models.images.decode import Pixels
from training.evaluate.evaluation import Evaluation
from training.events import EpochFinished

TRAIN_COLOUR, VALIDATION_COLOUR, GREY = "#9aa5b1", "#1f6feb", "#57606a"
MISTAKES = 25
ANNOTATED_CLASSES = 20  # with more classes, numbers in the cells are unreadable


def write_figures(directory: Path, figures: dict[str, Figure]) -> None:
    """Writes each figure as a PNG named after it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
        for name, figure in figures.items():
            FigureCanvasAgg(figure)
            with atomic_write(directory / name) as path:
                figure.savefig(path, format="png", dpi=120)


def draw_curves(history: Sequence[EpochFinished]) -> Figure:
    """Plots loss and accuracy by epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [line.epoch for line in history]
    panels = (
        ("Loss (nats)", [e.train_loss for e in history], [e.validation_loss for e in history]),
        ("Accuracy", [e.train_accuracy for e in history], [e.validation_accuracy for e in history]),
    )
    for axes, (title, train, validation) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(epochs, train, color=TRAIN_COLOUR, marker=".", label="training (augmented)")
        axes.plot(epochs, validation, color=VALIDATION_COLOUR, marker=".", label="validation")
        axes.set(title=title, xlabel="Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        if title == "Accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def draw_confusion(test: Evaluation, *, classes: Sequence[str]) -> Figure:
    """Confusion matrix: shares of each class's test images by prediction, with counts in the cells."""
    confusion = test.confusion
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    k = len(classes)
    side = min(max(5.0, 0.55 * k + 2.5), 16.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, format=PercentFormatter(1.0))
    bar.set_label("share of the class's images")
    small = max(4, min(9, round(160 / k)))
    names = [_short(name) for name in classes]
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(k), names, fontsize=small, **slanted)
    axes.set_yticks(range(k), names, fontsize=small)
    axes.set(xlabel="Predicted", ylabel="True", title=f"Test set: {_score(test)}")
    if k <= ANNOTATED_CLASSES:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=small)
    return figure


def draw_reliability(after: Evaluation, before: Evaluation | None = None) -> Figure:
    """Reliability diagram: accuracy and number of images by confidence; `before` is without temperature scaling."""
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    bins = after.reliability
    width, some = bins.edges[1], bins.counts > 0
    error = f"calibration error {bins.calibration_error:.2%}"
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    top.bar(bins.edges[:-1][some], bins.accuracy[some], width, align="edge", color=VALIDATION_COLOUR, alpha=0.6)
    top.plot(bins.confidence[some], bins.accuracy[some], "o-", color=VALIDATION_COLOUR, label=error)
    if before is not None:
        raw = before.reliability
        some = raw.counts > 0
        error = f"before temperature {raw.calibration_error:.2%}"
        top.plot(raw.confidence[some], raw.accuracy[some], "o-", color=TRAIN_COLOUR, label=error)
    top.set(ylabel="Accuracy", title=f"Test set: {_score(after)}", xlim=(0, 1), ylim=(0, 1))
    top.legend(frameon=False, loc="upper left")
    bottom.bar(bins.edges[:-1], bins.counts, width, align="edge", color=VALIDATION_COLOUR, alpha=0.6)
    bottom.set(xlabel="Confidence: probability of the predicted class", ylabel="Images")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_mistakes(test: Evaluation, pictures: Pixels, *, classes: Sequence[str], files: Sequence[str] = ()) -> Figure:
    """The test images of `most_confident_mistakes(MISTAKES)`, uint8 (n, H, W, C), with label, prediction and name.

    Args:
        files: the paths of all test images; without them the index is shown.
    """
    wrong = int((test.predictions != test.labels).sum())
    surest = test.most_confident_mistakes(MISTAKES)
    columns = 5
    rows = max(1, -(-len(surest) // columns))
    figure = Figure(figsize=(9, 2.1 * rows + 0.8), layout="constrained")
    many = f", the {len(surest)} surest" if wrong > len(surest) else ""
    figure.suptitle(f"{wrong} mistakes in {len(test.labels)} test images{many}")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, index, picture in zip(figure.axes, surest, pictures, strict=False):
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        predicted, label = test.predictions[index], test.labels[index]
        name = _end(files[index]) if files else f"image {index}"
        probability = test.probabilities[index, predicted]
        text = f"{name}\n{_short(classes[predicted])} ({probability:.0%})\ntrue: {_short(classes[label])}"
        axes.set_title(text, fontsize=8, color=GREY)
    return figure


def _score(test: Evaluation) -> str:
    right = int((test.predictions == test.labels).sum())
    return f"{right} of {len(test.labels)} right ({test.accuracy:.2%})"


def _short(name: str, limit: int = 18) -> str:
    return _plain(name if len(name) <= limit else name[: limit - 1] + "…")


def _end(path: str, limit: int = 24) -> str:
    return _plain(path if len(path) <= limit else "…" + path[1 - limit :])


def _plain(text: str) -> str:
    """The text without what matplotlib would read as maths, and with control characters escaped."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text.replace("$", r"\$")
