"""The names of misclassified images, so that mislabelled ones are found in their folder."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.files import printable
from training.evaluate.evaluation import Evaluation
from training.evaluate.plots import draw_mistakes, write_figures
from training.evaluate.predictions import COLUMNS, write_predictions
from training.evaluate.report import evaluation_json
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

CLASSES = ("dark", "light")
LOGITS = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 3.0], [0.5, 0.0], [0.0, 1.0]])
LABELS = torch.tensor([0, 0, 0, 0, 1])  # the second and the third are mistakes
FILES = ("test/dark/0.png", "test/dark/1.png", 'test/dark/a, "b".png', "test/dark/3.png", "test/light/0.png")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_most_confident_mistakes_come_first_and_correct_images_follow(tmp_path: Path) -> None:
    result = Evaluation.of(LOGITS, LABELS)
    write_predictions(tmp_path, result, classes=CLASSES, files=FILES)
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["image"] for row in rows] == ["2", "1", "3", "4", "0"]
    assert rows[0]["file"] == 'test/dark/a, "b".png'
    assert [row["correct"] for row in rows] == ["no", "no", "yes", "yes", "yes"]
    for row in rows:
        index, label = int(row["image"]), CLASSES.index(row["label"])
        assert row["file"] == FILES[index] and label == LABELS[index]
        assert float(row["probability"]) == pytest.approx(result.probabilities[index].max(), abs=1e-6)
        assert float(row["label_probability"]) == pytest.approx(result.probabilities[index, label], abs=1e-6)


def test_images_that_are_no_files_have_their_index(tmp_path: Path) -> None:
    result = Evaluation.of(LOGITS, LABELS)
    write_predictions(tmp_path, result, classes=CLASSES)
    assert {row["file"] for row in rows_of(tmp_path)} == {""}
    mistakes = evaluation_json(result, result, classes=CLASSES)["most_confident_mistakes"]
    assert [(mistake["image"], mistake["file"]) for mistake in mistakes] == [(2, None), (1, None)]
    titles = [axes.get_title() for axes in draw_mistakes(result, np.zeros((2, 8, 8, 1)), classes=CLASSES).axes]
    assert [title.splitlines()[0] for title in titles if title] == ["image 2", "image 1"]


def test_the_picture_names_files_of_any_script_and_length(tmp_path: Path) -> None:
    result = Evaluation.of(LOGITS, LABELS)
    files = ["", "test/dark/猫 $x_$\n.png", "test/dark/" + "long " * 20 + "end.png", "", ""]
    figure = draw_mistakes(result, np.zeros((2, 8, 8, 1), dtype=np.uint8), classes=CLASSES, files=files)
    first, second = (axes.get_title().splitlines()[0] for axes in figure.axes[:2])
    assert first.startswith("…") and first.endswith("end.png")
    assert second == r"test/dark/猫 \$x_\$\n.png"
    write_figures(tmp_path, {"mistakes.png": figure})


def test_top_5_is_a_metric_of_more_than_five_classes_only() -> None:
    labels = torch.arange(5)
    assert "top5_accuracy" not in Evaluation.of(torch.eye(5), labels).to_json()
    assert Evaluation.of(torch.eye(5, 6), labels).to_json()["top5_accuracy"] == 1


@pytest.mark.parametrize("limit_mb", [4096, 0])
@pytest.mark.parametrize("flat", [False, True])
def test_a_mislabelled_photo_is_found_by_its_path(run, tmp_path: Path, limit_mb: int, flat: bool) -> None:
    """One dark image lies among the light ones, under a name that is not UTF-8."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    odd = os.fsdecode(b"caf\xe9.png")
    for split in ("",) if flat else ("train", "test"):
        for name, level in zip(CLASSES, (0, 128), strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(20):
                pixels = rng.integers(level, level + 128, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    if not flat:
        Image.fromarray(rng.integers(0, 128, (28, 28), dtype=np.uint8)).save(root / "test" / "light" / odd)
    request = TrainingRequest("lenet", str(root), overrides={"epochs": 4, "batch_size": 8})
    checkpoint = train_checkpoint(request, out=tmp_path / "run")
    words = ("--data", root, "--out", tmp_path / "found", "--memory-limit-mb", limit_mb, "--workers", 0)
    assert run("evaluate", checkpoint, *words).status == 0
    for folder in (checkpoint, tmp_path / "found"):
        rows = rows_of(folder)
        assert len(rows) == len({row["file"] for row in rows}) == (rows and max(int(row["image"]) for row in rows) + 1)
        for row in rows:
            assert row["label"] in row["file"].split("/")
            assert "\\" in row["file"] or (root / row["file"]).is_file()
    if not flat:
        wanted = printable(f"test/light/{odd}")
        assert rows_of(checkpoint)[0]["file"] == wanted == r"test/light/caf\xe9.png"
        first = json.loads((tmp_path / "found" / "evaluation.json").read_text())["most_confident_mistakes"][0]
        assert (first["file"], first["label"], first["predicted"]) == (wanted, "light", "dark")
        assert first["probability"] > 0.5 > first["label_probability"]
