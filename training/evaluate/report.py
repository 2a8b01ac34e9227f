"""evaluation.json and its plots, as written by `convscope evaluate`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.files import atomic_write
from models.images.decode import Pixels
from training.evaluate.evaluation import Evaluation
from training.evaluate.plots import MISTAKES, draw_confusion, draw_mistakes, draw_reliability, write_figures
from training.evaluate.predictions import write_predictions

SCHEMA = 1
EVALUATION_FILE = "evaluation.json"


def write_evaluation(
    directory: Path,
    result: Evaluation,
    before: Evaluation,
    pictures: Callable[[npt.NDArray[np.int64]], Pixels],
    *,
    classes: Sequence[str],
    subject: str,
    data: str,
    temperature: float,
    files: Sequence[str] = (),
) -> None:
    """Writes evaluation.json, predictions.csv and the pictures to a folder, created if absent.

    The pictures are confusion.png, reliability.png and mistakes.png.

    Args:
        result: with temperature scaling.
        before: without it.
        pictures: returns uint8 (n, H, W, C) for n indices into the images.
        subject: name of the evaluated model.
        files: the images' paths, or none if they are no files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    mistakes = pictures(result.most_confident_mistakes(MISTAKES))
    figures = {
        "confusion.png": draw_confusion(result, classes=classes),
        "reliability.png": draw_reliability(result, before if temperature != 1 else None),
        "mistakes.png": draw_mistakes(result, mistakes, classes=classes, files=files),
    }
    write_figures(directory, figures)
    write_predictions(directory, result, classes=classes, files=files)
    about = {"schema": SCHEMA, "subject": subject, "data": data, "temperature": temperature}
    content = about | evaluation_json(result, before, classes=classes, files=files)
    with atomic_write(directory / EVALUATION_FILE) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def evaluation_json(
    result: Evaluation, before: Evaluation, *, classes: Sequence[str], files: Sequence[str] = ()
) -> dict[str, Any]:
    """All metrics as primitives; shares in [0, 1], losses in nats.

    Macro averages are unweighted, over the classes that have images.
    """
    scores, bins = result.scores, result.reliability
    there = scores.images > 0
    columns = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    return {
        "images": len(result.labels),
        **result.to_json(),
        "loss_before_temperature": before.loss,
        "calibration_error_before_temperature": before.reliability.calibration_error,
        **{f"macro_{name}": float(values[there].mean()) for name, values in columns.items()},
        "classes": [
            {"name": name, "images": int(scores.images[i])} | {key: float(column[i]) for key, column in columns.items()}
            for i, name in enumerate(classes)
        ],
        "confusion": result.confusion.tolist(),
        "reliability": [
            {
                "from": float(bins.edges[i]),
                "to": float(bins.edges[i + 1]),
                "images": int(bins.counts[i]),
                "confidence": float(bins.confidence[i]),
                "accuracy": float(bins.accuracy[i]),
            }
            for i in range(len(bins.counts))
        ],
        "most_confident_mistakes": [
            {
                "image": int(i),
                "file": files[i] if files else None,
                "label": classes[result.labels[i]],
                "predicted": classes[result.predictions[i]],
                "probability": float(result.probabilities[i].max()),
                "label_probability": float(result.probabilities[i, result.labels[i]]),
            }
            for i in result.most_confident_mistakes(MISTAKES)
        ],
    }
