"""Test images of a folder: which are taken, how they are labelled, and that streaming them changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from sklearn.datasets import load_digits

from export.artifact.manifest import read_manifest
from export.pipeline.data import EvaluationData, load_export_data, load_test
from export.pipeline.export import export_checkpoint
from export.verify.check import correct_of
from export.verify.reference import reference
from export.verify.verification import verify_artifact
from models.checkpoint.directory import load_checkpoint, read_config
from tests.conftest import digit_images
from training.data.datasets import load_dataset
from training.data.in_memory import InMemoryDataset
from training.data.options import DataOptions, SourceOptions
from training.data.streaming import StreamingDataset
from training.evaluate.plots import MISTAKES

CLASSES = tuple("0123456789")


def write_digits(root: Path, counts: dict[str, int]) -> Path:
    """Class folders of scikit-learn's digits at the size LeNet takes; BMP, whose bytes no library's version changes."""
    left = dict(counts)
    for index, (image, label) in enumerate(zip(digit_images(1, 1797), load_digits().target.astype(str), strict=True)):
        if left.get(label, 0):
            left[label] -= 1
            (root / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((28, 28)).save(root / label / f"{index}.bmp")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test split with more images than are compared at a time, and a training split; only to be read."""
    root = tmp_path_factory.mktemp("data") / "digits-folder"
    write_digits(root / "test", dict.fromkeys(CLASSES, 50))
    write_digits(root / "train", dict.fromkeys(CLASSES, 60))
    return root


def load(checkpoint: Path, data: Path, trained_on: dict[str, Any] | None = None, **more: Any) -> EvaluationData:
    config = replace(read_config(checkpoint), classes=more.pop("classes", CLASSES), dataset=trained_on or {})
    return load_test(str(data), config, SourceOptions(**more))


@pytest.mark.parametrize("limit", [4096, 0])
def test_three_of_ten_classes_are_measured_as_scikit_learn_does(
    run, lenet_checkpoint: Path, tmp_path: Path, limit: int
) -> None:
    data, out = tmp_path / "photos", tmp_path / "out"
    write_digits(data / "test", {"8": 20, "5": 30, "4": 15})
    outcome = run("evaluate", lenet_checkpoint, "--data", data, "--out", out, "--memory-limit-mb", limit)
    assert outcome.status == 0 and f"{data} has 3 of the network's 10 classes" in " ".join(outcome.out.split())
    paths = sorted(data.rglob("*.bmp"))
    checkpoint = load_checkpoint(lenet_checkpoint)
    images = np.stack([np.asarray(Image.open(path)) for path in paths])[:, None] / np.float32(255)
    x = torch.from_numpy((images - checkpoint.config.input.mean[0]) / checkpoint.config.input.std[0]).float()
    probabilities = checkpoint.network(x).softmax(1).detach().numpy()
    predicted, labels = probabilities.argmax(1), np.array([int(path.parent.name) for path in paths])
    found = json.loads((out / "evaluation.json").read_text())
    assert (
        found["images"] == 65
        and found["macro_recall"] > 0
        and np.isfinite([value for value in found.values() if isinstance(value, float)]).all()
    )
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    top5 = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(10))
    assert found["top5_accuracy"] == pytest.approx(top5)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted, labels=range(10)).tolist()
    scores = metrics.precision_recall_fscore_support(labels, predicted, labels=[4, 5, 8], zero_division=0)
    for name, wanted in zip(("precision", "recall", "f1"), scores, strict=False):
        assert [found["classes"][label][name] for label in (4, 5, 8)] == pytest.approx(wanted)
        assert found[f"macro_{name}"] == pytest.approx(wanted.mean())
    assert {row["images"] for row in found["classes"] if row["name"] not in "458"} == {0}
    assert {path.name for path in out.glob("*.png")} == {"confusion.png", "mistakes.png", "reliability.png"}


@pytest.fixture
def nothing_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is taken of streamed images, the mistakes, may come into memory at once."""

    def few(images: StreamingDataset) -> InMemoryDataset:
        assert len(images) <= MISTAKES
        return in_memory(images)

    in_memory = StreamingDataset.in_memory
    monkeypatch.setattr(StreamingDataset, "in_memory", few)
    monkeypatch.setattr(
        "training.data.splits.load_into_memory", lambda *_, **__: pytest.fail("a split is read as a whole")
    )


def test_evaluation_is_the_same_streamed_or_not(
    run, lenet_artifact: Path, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert run("evaluate", lenet_artifact, "--data", folder, "--out", tmp_path / "memory").status == 0
    request.getfixturevalue("nothing_whole_in_memory")
    words = ["--out", tmp_path / "streamed", "--memory-limit-mb", 0, "--workers", 0]
    assert run("evaluate", lenet_artifact, "--data", folder, *words).status == 0
    for path in (tmp_path / "memory").iterdir():
        assert path.read_bytes() == (tmp_path / "streamed" / path.name).read_bytes()


def test_verification_is_the_same_streamed_or_not(
    run, lenet_artifact: Path, lenet_checkpoint: Path, folder: Path, request: pytest.FixtureRequest
) -> None:
    memory, streamed = (load(lenet_checkpoint, folder, memory_limit_mb=limit, workers=1).images for limit in (4096, 0))
    request.getfixturevalue("nothing_whole_in_memory")
    assert isinstance(streamed, StreamingDataset) and len(streamed) == 500
    first, second = (verify_artifact(lenet_artifact, test=test) for test in (memory, streamed))
    assert first.accuracy == second.accuracy is not None
    assert [(one.parity, one.accuracy) for one in first.files] == [(one.parity, one.accuracy) for one in second.files]
    assert {one.parity.images for one in first.files} == {500}
    outcome = run("verify", lenet_artifact, "--data", folder, "--memory-limit-mb", 0, "--workers", 0)
    assert outcome.status == 0 and outcome.out.count(f"{first.accuracy:.2%}") == 3


def test_an_export_of_streamed_images_has_the_accuracies_of_those_in_memory(
    lenet_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    config = read_config(lenet_checkpoint)
    memory, streamed = (
        load_export_data(str(folder), config, SourceOptions(memory_limit_mb=limit, workers=0)) for limit in (4096, 0)
    )
    assert isinstance(streamed.test, StreamingDataset) and np.array_equal(memory.calibration, streamed.calibration)
    manifest = read_manifest(export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["onnx"], data=streamed))
    wanted = correct_of(reference(load_checkpoint(lenet_checkpoint)), memory.test).mean()
    assert manifest.reference["accuracy"] == manifest.files["model.onnx"].accuracy == wanted


def test_a_flat_folder_is_split_only_if_it_is_what_was_trained_on(lenet_checkpoint: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "photos", dict.fromkeys(CLASSES, 10))
    raw = load_dataset(str(root))
    for trained_on in ({"name": "photos", "sha256": raw.sha256}, {"name": "old", "sha256": raw.sha256}):
        found = load(lenet_checkpoint, root, trained_on)
        assert (len(found.images), found.remarks) == (len(raw.test), ())
    found = load(lenet_checkpoint, root, {"name": "other", "sha256": "0"})
    assert len(found.images) == 100 and "is taken as a whole; training images may be" in found.remarks[0]
    assert np.bincount(found.images.labels.numpy()).tolist() == [10] * 10


def test_what_the_training_left_out_is_left_out_again(lenet_checkpoint: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "photos", dict.fromkeys(CLASSES, 10))
    next(path for path in sorted(root.rglob("*")) if path.is_file()).write_bytes(b"hello")
    trained_on = {"name": "photos", "sha256": load_dataset(str(root), DataOptions(skip_bad=True)).sha256}
    with pytest.raises(ValueError, match="is not an image; known formats are"):
        load(lenet_checkpoint, root, trained_on)
    assert load(lenet_checkpoint, root, {**trained_on, "left_out": {"count": 1}}).remarks == ()
    config = replace(read_config(lenet_checkpoint), dataset={"left_out": {"count": 1}})
    data = load_export_data(str(root), config)
    assert len(data.test) + len(data.calibration) == 99


def test_a_folder_with_no_test_images_left_is_refused(lenet_checkpoint: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "photos", dict.fromkeys(CLASSES, 1))
    for path in [path for path in load_dataset(str(root), test_only=True).test.images if isinstance(path, Path)]:
        path.unlink()
        path.parent.rmdir()
    with pytest.raises(ValueError, match="photos has no test images left"):
        load(lenet_checkpoint, root, {"name": "photos", "sha256": "0"})


@pytest.mark.parametrize(
    ("splits", "says"),
    [([""], "may be among these if they were edited"), (["train", "test"], "if they were moved or copied to the test")],
)
def test_what_is_doubtful_about_a_folder_that_has_changed_is_said(
    splits: list[str], says: str, lenet_checkpoint: Path, tmp_path: Path
) -> None:
    for split in splits:
        write_digits(tmp_path / "photos" / split, dict.fromkeys(CLASSES, 4))
    (remark,) = load(lenet_checkpoint, tmp_path / "photos", {"name": "photos", "sha256": "0"}).remarks
    assert "has changed since the training" in remark and says in remark


def test_a_split_for_validation_that_stands_in_is_told(
    run, lenet_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "photos")
    (tmp_path / "photos/test").rename(tmp_path / "photos/val")
    says = f"there is no test/ in {tmp_path / 'photos'}: val/ is measured on"
    fitted = "; if the network had it beside its training images, its temperature was fitted on them"
    for trained_on, remarks in (
        ({"name": "a", "sha256": "0"}, (says + fitted,)),
        ({"name": "a", "sha256": "0", "test_folder": "val"}, (says,)),
        ({"name": "a", "sha256": load_dataset(str(tmp_path / "photos")).sha256}, ()),
    ):
        assert load(lenet_checkpoint, tmp_path / "photos", trained_on).remarks == remarks
    outcome = run("export", lenet_checkpoint, "--data", tmp_path / "photos", "--out", tmp_path, "--formats", "onnx")
    assert outcome.status == 0 and says in " ".join(outcome.out.split())


def test_labels_are_the_networks_whatever_their_order(lenet_checkpoint: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "test", {"2": 3, "5": 1})
    found = load(lenet_checkpoint, tmp_path, classes=CLASSES[::-1])
    assert found.images.labels.tolist() == [7, 7, 7, 4]


def test_classes_that_the_network_does_not_have_or_has_twice_are_named(lenet_checkpoint: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "test", {"2": 3})
    with pytest.raises(ValueError, match="the network has two classes called '2', so"):
        load(lenet_checkpoint, tmp_path, classes=(*CLASSES, "2"))
    shutil.copytree(tmp_path / "test/2", tmp_path / "test/two")
    with pytest.raises(ValueError, match="has the classes two; the network has 0, 1, 2, 3"):
        load(lenet_checkpoint, tmp_path)


def test_the_data_set_inside_a_folder_without_any_class_of_the_network_is_named(
    lenet_checkpoint: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        write_digits(tmp_path / "unpacked/digits" / split, {"2": 3, "5": 3})
    with pytest.raises(ValueError, match=r"has the classes digits; .* 9; did you mean .*/unpacked/digits\?$"):
        load(lenet_checkpoint, tmp_path / "unpacked")


def test_a_test_split_alone_is_evaluated_and_verified_but_neither_learnt_from_nor_calibrated_on(
    run, lenet_checkpoint: Path, lenet_artifact: Path, tmp_path: Path
) -> None:
    write_digits(tmp_path / "photos/test", dict.fromkeys(CLASSES, 2))
    for subject in (lenet_checkpoint, lenet_artifact):
        outcome = run("evaluate", subject, "--data", tmp_path / "photos")
        assert outcome.status == 0 and "of 20 test images" in " ".join(outcome.out.split())
    assert run("verify", lenet_artifact, "--data", tmp_path / "photos").status == 0
    for words in (["train", "lenet"], ["export", lenet_checkpoint]):
        outcome = run(*words, "--data", tmp_path / "photos", "--out", tmp_path / "out")
        assert outcome.status == 1 and "photos has the folder test but not train, to train on or" in outcome.err


@pytest.mark.parametrize("verb", ["evaluate", "verify", "export"])
@pytest.mark.parametrize("flag", ["--memory-limit-mb", "--workers"])
def test_a_negative_bound_is_refused(run, verb: str, flag: str) -> None:
    outcome = run(verb, "x", "--data", "digits", flag, -1)
    assert outcome.status == 2 and "both must be at least 0" in outcome.err
