"""Data sets: arrays as scikit-learn and torchvision have them, errors that say what to do."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torchvision import datasets as torchvision_datasets

from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.data.raw import stratified_split


def test_digits_are_those_of_scikit_learn() -> None:
    raw = load_dataset("digits")
    reference = load_digits()
    images = np.concatenate([np.asarray(raw.train.images), np.asarray(raw.test.images)])
    ours = sorted(image.tobytes() for image in np.round(images / (255 / 16)).astype(np.uint8))
    assert ours == sorted(image.tobytes() for image in reference.images.astype(np.uint8))
    assert images.max() == 255 and raw.classes == tuple("0123456789") and raw.size == (8, 8)


def test_the_test_split_is_a_fifth_of_every_class_and_always_the_same() -> None:
    raw = load_dataset("digits")
    share = np.bincount(raw.test.labels) / (np.bincount(raw.test.labels) + np.bincount(raw.train.labels))
    assert np.allclose(share, 0.2, atol=0.01)
    assert load_dataset("digits").sha256 == raw.sha256


def test_splits_share_no_index_and_lose_none() -> None:
    labels = np.repeat(np.arange(3), [5, 10, 20])
    kept, held = stratified_split(labels, fraction=0.2, seed=0)
    assert sorted([*kept, *held]) == list(range(35))
    assert np.bincount(labels[held]).tolist() == [1, 2, 4]


def test_a_class_too_small_to_split_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has too few images to split: 1"):
        stratified_split(np.array([0, 0, 1]), fraction=0.2, seed=0)


def test_stripes_cannot_be_told_apart_by_their_grey_levels() -> None:
    raw = load_dataset("stripes")
    images = np.asarray(raw.train.images).reshape(len(raw.train), -1).astype(float)
    features = np.stack([images.mean(1), images.std(1), images.min(1), images.max(1)], axis=1)
    scores = LogisticRegression(max_iter=2000).fit(features / 255, raw.train.labels)
    assert scores.score(features / 255, raw.train.labels) < 0.56


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvision_sets_are_its_arrays(name: str, kind: str, shared_data: Path) -> None:
    if not (shared_data / kind / "raw").is_dir():
        pytest.skip(f"no {shared_data / kind}")
    raw = load_dataset(name, DataOptions(data_dir=shared_data))
    for split, train in ((raw.train, True), (raw.test, False)):
        reference = getattr(torchvision_datasets, kind)(shared_data, train=train)
        assert np.array_equal(split.images, reference.data.numpy())
        assert np.array_equal(split.labels, reference.targets.numpy())


def make_cifar10(root: Path) -> None:
    """Files of CIFAR-10's layout with two images each; torchvision knows the real ones by their MD5."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {"data": np.full((2, 3072), i, dtype=np.uint8), "labels": [i, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar10_is_read_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    make_cifar10(tmp_path)
    raw = load_dataset("cifar10", DataOptions(data_dir=tmp_path))
    assert (raw.classes, raw.mode, raw.size, raw.background) == (tuple("abcdefghij"), "RGB", (32, 32), 0)
    assert raw.counts == {"train": 10, "test": 2}
    assert raw.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and raw.test.labels.dtype == np.int64


def test_a_download_goes_to_the_first_place_and_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", lambda self: asked.append(Path(self.root)))
    monkeypatch.setenv("CONVSCOPE_DATA_DIR", str(tmp_path / "b"))
    for download in (False, True):
        with pytest.raises(ValueError, match="cifar-10-batches-py"):  # the download here fetches nothing
            load_dataset("cifar10", DataOptions(data_dir=tmp_path / "a", download=download))
    assert asked == [tmp_path / "a"]


def test_the_first_place_that_has_the_files_is_taken(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (shared_data / "MNIST/raw").is_dir():
        pytest.skip(f"no {shared_data / 'MNIST'}")
    (tmp_path / "MNIST/raw").mkdir(parents=True)  # there, but empty
    monkeypatch.setenv("CONVSCOPE_DATA_DIR", str(shared_data))
    assert len(load_dataset("mnist", DataOptions(data_dir=tmp_path)).test) == 10_000


def test_places_are_the_flag_then_the_variable_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_DATA_DIR", "/b")
    assert DataOptions(data_dir=Path("/a")).directories == (Path("/a"), Path("/b"), Path("data"))
    monkeypatch.delenv("CONVSCOPE_DATA_DIR")
    assert DataOptions().directories == (Path("data"),)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_absent_files_name_every_place_and_the_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSCOPE_DATA_DIR", str(tmp_path / "b"))
    with pytest.raises(ValueError, match=f"files of {name}.*/a/.*/b/.*--data-dir.*CONVSCOPE_DATA_DIR.*--download"):
        load_dataset(name, DataOptions(data_dir=tmp_path / "a"))


def test_a_damaged_file_of_torchvision_names_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(b"\0" * 64)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match="MNIST/raw: a file is damaged"):
        load_dataset("mnist", DataOptions(data_dir=tmp_path))


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        ("train", [0, 9, 10], "the label of training image 2 is 10; labels are 0 to 9"),
        ("t10k", [200, 1, 2], "the label of test image 0 is 200; labels are 0 to 9"),
        ("t10k", [1, 2], "3 images have 2 labels"),
    ],
)
def test_labels_that_do_not_fit_are_named(split: str, labels: list[int], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name in ("train", "t10k"):
        numbers = bytes(labels if name == split else [0, 1, 2])
        header = b"".join(number.to_bytes(4, "big") for number in (0x803, 3, 28, 28))  # of the format IDX
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + bytes(3 * 28 * 28))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big") + len(numbers).to_bytes(4, "big") + numbers
        )
    with pytest.raises(ValueError, match=re.escape(f"{folder}: {message}")):
        load_dataset("mnist", DataOptions(data_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("mnits", "did you mean mnist"), ("zzzz", "known are digits, stripes"), ("no/such", "folder no/such does not")],
)
def test_unknown_names_list_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset(name)


def make_images(root: Path) -> None:
    """Class folders a and b."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 20 * i + len(name)).save(root / name / f"{i}.png")


@pytest.mark.parametrize(
    ("images", "given", "meant"),
    [
        ("cats/cats/train", "cats", "cats/cats/train"),
        ("cats/cats/train", "cats/cats", "cats/cats/train"),
        ("archive/photos", "archive", "archive/photos"),
        ("photos", "photos/a", "photos"),
    ],
)
def test_the_folder_that_was_meant_is_named(tmp_path: Path, images: str, given: str, meant: str) -> None:
    make_images(tmp_path / images)
    (tmp_path / given / "__MACOSX").mkdir()
    with pytest.raises(ValueError, match=rf"did you mean {tmp_path / meant}\?$"):
        load_dataset(str(tmp_path / given))
    load_dataset(str(tmp_path / meant))


def test_splits_further_down_are_named_together(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_images(tmp_path / "cats/cats" / split)
    with pytest.raises(ValueError, match=r"the one class folder 'cats'; .* did you mean .*/cats/cats\?$"):
        load_dataset(str(tmp_path / "cats"))


@pytest.mark.parametrize(("name", "message"), [("a.csv", "is a file; give a folder"), ("a.TAR.GZ", "unpack it, and")])
def test_a_file_is_no_data_set(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"a,b")
    with pytest.raises(ValueError, match=message):
        load_dataset(str(tmp_path / name))
