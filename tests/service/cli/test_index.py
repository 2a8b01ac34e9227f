import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.in_process import digit


@pytest.fixture
def artifact(lenet_artifact, tmp_path):
    copy = tmp_path / "artifacts" / "lenet" / "1"
    shutil.copytree(lenet_artifact, copy)
    return copy


@pytest.fixture
def folder(tmp_path):
    """Ten digits in class folders, a training and a test split."""
    for index in range(20):
        place = tmp_path / "data" / ("train" if index >= 10 else "test") / str(index % 10)
        place.mkdir(parents=True)
        Image.fromarray(digit(index)).save(place / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_folder_is_indexed_and_its_files_are_named(run, artifact, folder, split):
    done = run("index", artifact, "--data", folder, "--split", split, "--references", 2)
    assert done.status == 0, done.err
    assert "2 of 10 images for each of 884 channels in 12 layers" in done.out
    about = json.loads((artifact / "references" / "index.json").read_text())
    assert (about["artifact"], about["images"], about["dataset"]["split"]) == ("lenet:1", 10, split)
    names = np.load(artifact / "references" / "pictures.npy")["name"].tolist()
    first = 0 if split == "test" else 10
    assert set(names) <= {f"{index % 10}/{index}.png" for index in range(first, first + 10)}


def test_a_part_of_the_images(run, artifact):
    done = run("index", artifact.parent, "--data", "digits", "--images", 50)
    assert done.status == 0 and "of 50 images" in done.out


def test_inspect_and_explain_say_how_normal_an_image_is(run, indexed_artifact, tmp_path):
    odd = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)).save(odd)
    shown = run("inspect", indexed_artifact, odd, "--out", tmp_path / "sheet.png").out
    assert "noise.png: unusual beside the 359 test images of digits in" in shown
    explained = run("explain", indexed_artifact, odd, "--method", "occlusion", "--out", tmp_path / "why")
    assert "unusual beside the 359 test images of digits" in explained.out
    record = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert record["normality"][0]["layer"] == "conv1"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--data", "digits", "--images", "1"), 2, "--images is 1; it must be at least 2"),
        (("--data", "digits", "--references", "0"), 2, "--references is 0; it must be 1 to 100"),
        (("--data", "digits", "--references", "101"), 2, "--references is 101; it must be 1 to 100"),
        (("--data", "digit"), 1, "no data set is called 'digit'"),
        (("--data", "stripes"), 1, "has the classes"),
    ],
)
def test_what_cannot_be_indexed_is_refused(run, artifact, words, status, message):
    done = run("index", artifact, *words)
    assert (done.status, message in done.err) == (status, True), done.err
    assert not (artifact / "references").exists()


def test_an_artifact_that_cannot_be_written_keeps_its_index(run, artifact, monkeypatch):
    assert run("index", artifact, "--data", "digits", "--images", 20).status == 0
    before = (artifact / "references" / "index.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.inspection.references.builder.np.save", full)
    done = run("index", artifact, "--data", "digits", "--images", 30)
    assert done.status == 1 and "references cannot be written: No space left on device" in done.err
    assert (artifact / "references" / "index.json").read_bytes() == before
    assert [path.name for path in artifact.iterdir() if path.name.startswith(".")] == []
