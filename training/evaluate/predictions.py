"""predictions.csv: a row for every test image, so that mislabelled ones are found."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.files import atomic_write
from training.evaluate.evaluation import Evaluation

PREDICTIONS_FILE = "predictions.csv"
COLUMNS = ("image", "file", "label", "predicted", "probability", "label_probability", "correct")


def write_predictions(
    directory: Path, result: Evaluation, *, classes: Sequence[str], files: Sequence[str] = ()
) -> None:
    """Writes the label, the prediction and both probabilities of each of N images.

    The mistakes come first, the most confident one at the top, and then the correct images, the least confident one
    at the top: a wrong label is usually near one of these.

    Args:
        files: the images' N paths, or none if they are no files; `image` is the index in the test set either way.
    """
    wrong = result.most_confident_mistakes(len(result.labels))
    right = np.flatnonzero(result.predictions == result.labels)
    right = right[np.argsort(result.probabilities[right].max(axis=1), kind="stable")]
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / PREDICTIONS_FILE) as path, path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for index in np.concatenate([wrong, right]).tolist():
            label, predicted = int(result.labels[index]), int(result.predictions[index])
            rows.writerow(
                (
                    index,
                    files[index] if files else "",
                    classes[label],
                    classes[predicted],
                    f"{result.probabilities[index, predicted]:.6f}",
                    f"{result.probabilities[index, label]:.6f}",
                    "yes" if label == predicted else "no",
                )
            )
