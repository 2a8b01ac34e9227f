"""Folders of images as they lie: splits, classes, names, damaged files, errors that say what to do."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.images.input_spec import InputSpec
from training.data.datasets import load_dataset
from training.data.in_memory import load_into_memory
from training.data.raw import RawDataset, select_test_images
from training.data.sampling import sample_test_images
from training.data.walk import summary_of

SPEC = InputSpec(mode="L", height=9, width=7, resize=(9, 7), background=(255,), mean=(0.0,), std=(1.0,))


def make_folder(root: Path, counts: dict[str, int], *, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> Path:
    """Images of noise; BMP, as the bytes of compressed ones, which draw the test split, depend on the library."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.bmp")
    return root


def sides(raw: RawDataset) -> dict[Path, str]:
    splits = {"train": raw.train, "test": raw.test}
    return {Path(path): name for name, split in splits.items() for path in split.images}


def sides_by_content(raw: RawDataset) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = {}
    for path, side in sides(raw).items():
        found.setdefault(path.read_bytes(), set()).add(side)
    return found


@pytest.mark.parametrize("gone", [1, 20, 39])
def test_an_image_keeps_its_side_when_others_come_or_go(gone: int, tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a": 60, "b": 70})
    many = sides(load_dataset(str(root)))
    for path in list(many)[:gone]:
        path.unlink()
    few = sides(load_dataset(str(root)))
    assert len(few) == 130 - gone and few.items() <= many.items()


def test_neither_names_nor_copies_nor_a_move_to_another_class_change_an_images_side(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "one", {"a": 40, "b": 50})
    before = sides_by_content(load_dataset(str(root)))
    for path in root.rglob("*.bmp"):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
        path.rename(path.with_name(f"{path.stem[::-1]}x.bmp"))
    (root / "a/0x.bmp").rename(root / "b/moved.bmp")
    assert sides_by_content(load_dataset(str(root))) == before
    assert all(len(names) == 1 for names in before.values())


def test_about_a_fifth_of_every_class_is_for_testing() -> None:
    labels = np.arange(20_000) % 4
    chosen = select_test_images(labels, [str(number) for number in range(20_000)])
    assert np.bincount(labels[chosen]) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_smallest_class_is_on_both_sides(count: int) -> None:
    labels = np.repeat(np.arange(300), count)
    chosen = select_test_images(labels, [str(number) for number in range(len(labels))])
    held = np.bincount(labels[chosen], minlength=300)
    assert held.min() >= 1 and held.max() < count


def test_the_hash_of_a_folder_tells_how_it_was_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path, {"a": 30, "b": 30})
    before = load_dataset(str(root)).sha256
    monkeypatch.setattr("training.data.raw.TEST_FRACTION", 0.5)
    assert load_dataset(str(root)).sha256 != before


def test_a_folder_of_class_folders_gets_a_test_split(tmp_path: Path) -> None:
    raw = load_dataset(str(make_folder(tmp_path / "pets", {"dog": 10, "cat": 5})))
    assert (raw.name, raw.classes, sum(raw.counts.values())) == ("pets", ("cat", "dog"), 15)
    assert set(raw.train.labels) == set(raw.test.labels) == {0, 1}
    assert (raw.mode, raw.size, raw.background) == ("RGB", (9, 7), 255)
    assert all(
        Path(path).parent.name == raw.classes[label] for path, label in zip(*vars(raw.train).values(), strict=True)
    )


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_train_test_and_val_folders_are_taken_as_they_are(validation: str, tmp_path: Path) -> None:
    for name, count in (("train", 4), (validation, 2), ("test", 3)):
        make_folder(tmp_path / name, {"a": count, "b": count}, mode="L")
    raw = load_dataset(str(tmp_path))
    assert raw.counts == {"train": 8, "validation": 4, "test": 6}
    assert raw.mode == "L"


@pytest.mark.parametrize(("train", "validation"), [("train", "val"), ("train", "valid"), ("Train", "Validation")])
def test_a_split_for_validation_is_measured_on_where_there_is_no_other(
    train: str, validation: str, tmp_path: Path
) -> None:
    make_folder(tmp_path / train, {"a": 4, "b": 4})
    make_folder(tmp_path / validation, {"a": 2, "b": 2})
    raw = load_dataset(str(tmp_path))
    assert (raw.counts, raw.test_folder, raw.unsplit) == ({"train": 8, "test": 4}, validation, False)
    assert {Path(path).parents[1].name for path in raw.test.images} == {validation}


def test_a_split_for_validation_alone_is_measured_on_where_nothing_is_learnt(tmp_path: Path) -> None:
    make_folder(tmp_path / "val", {"a": 2, "b": 2})
    assert load_dataset(str(tmp_path), test_only=True).counts == {"train": 0, "test": 4}


def test_classes_may_be_called_as_a_split_for_validation(tmp_path: Path) -> None:
    assert load_dataset(str(make_folder(tmp_path, {"valid": 5, "invalid": 5}))).classes == ("invalid", "valid")


def test_splits_are_found_however_they_are_written_unless_one_is_a_class(tmp_path: Path) -> None:
    make_folder(tmp_path / "splits/Train", {"a": 5, "b": 5})
    make_folder(tmp_path / "splits/TEST", {"a": 2, "b": 2})
    assert load_dataset(str(tmp_path / "splits")).counts == {"train": 10, "test": 4}
    vehicles = make_folder(tmp_path / "vehicles", {"Car": 5, "Train": 5})
    assert load_dataset(str(vehicles)).classes == ("Car", "Train")


@pytest.mark.parametrize(("first", "second"), [("seg_train", "seg_test"), ("training_set", "test_set")])
def test_splits_by_other_names_are_not_taken_for_classes(first: str, second: str, tmp_path: Path) -> None:
    for name in (first, second):
        make_folder(tmp_path / name, {"a": 5, "b": 5})
    with pytest.raises(
        ValueError, match=f"folders {first} and {second} with the same folders inside .a, b.; splits must"
    ):
        load_dataset(str(tmp_path))


def test_a_test_split_by_another_name_is_not_passed_over(tmp_path: Path) -> None:
    for name in ("train", "val", "test_set"):
        make_folder(tmp_path / name, {"a": 5, "b": 5})
    with pytest.raises(ValueError, match=r"folders train and test_set with the same folders inside \(a, b\); splits"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("name", ["Test", "Val"])
def test_a_split_alone_is_found_however_it_is_written(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path / name, {"a": 2, "b": 2})
    assert load_dataset(str(tmp_path), test_only=True).counts == {"train": 0, "test": 4}
    with pytest.raises(ValueError, match=f"has the folder {name.lower()} but not t"):
        load_dataset(str(tmp_path))


def test_test_images_that_are_learnt_from_are_counted(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        make_folder(tmp_path / name, {"a": 5, "b": 5})  # of the same noise
    assert load_dataset(str(tmp_path)).duplicates == 10
    shutil.rmtree(tmp_path / "train")
    make_folder(tmp_path / "train", {"a": 5, "b": 5}, size=(5, 5))
    assert load_dataset(str(tmp_path)).duplicates == 0  # the temperature is fitted on those of val, nothing learnt
    shutil.copytree(tmp_path / "val", tmp_path / "train", dirs_exist_ok=True)
    for path in (tmp_path / "test/a").iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    assert load_dataset(str(tmp_path)).duplicates == 5


@pytest.mark.parametrize("count", [20, 21, 40])
def test_kinds_of_images_that_alternate_are_all_seen(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.folder.SAMPLED", 20)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(count):
            picture = Image.new("RGB", (9, 9)) if i % 2 else Image.new("L", (9, 12))
            picture.save(tmp_path / name / f"{i:04}.bmp")
    raw = load_dataset(str(tmp_path))
    assert (raw.mode, raw.size) == ("RGB", None)


def test_a_test_split_alone_is_taken_where_nothing_is_learnt(tmp_path: Path) -> None:
    make_folder(tmp_path / "test", {"c": 2})
    raw = load_dataset(str(tmp_path), test_only=True)
    assert (raw.classes, raw.counts, raw.unsplit) == (("c",), {"train": 0, "test": 2}, False)
    make_folder(tmp_path / "train", {"a": 3, "b": 3})
    raw = load_dataset(str(tmp_path), test_only=True)
    assert (raw.classes, raw.test.labels.tolist()) == (("a", "b", "c"), [2, 2])


def test_what_is_wrong_beside_a_test_split_is_of_no_matter_where_nothing_is_learnt(tmp_path: Path) -> None:
    make_folder(tmp_path / "test", {"a": 2, "b": 1})
    (tmp_path / "train").mkdir()
    assert load_dataset(str(tmp_path), test_only=True).counts == {"train": 0, "test": 3}
    make_folder(tmp_path / "train", {"a": 2, "b": 2})
    for path in (tmp_path / "train").rglob("*.bmp"):
        path.write_bytes(b"hello")
    assert load_dataset(str(tmp_path), test_only=True).counts == {"train": 4, "test": 3}
    with pytest.raises(ValueError, match="4 images cannot be used"):
        load_into_memory(load_dataset(str(tmp_path)).train, SPEC)


def test_a_test_split_beside_classes_is_neither(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 2, "dog": 2, "test": 2})
    with pytest.raises(
        ValueError, match="has the folder test beside cat, dog, and so is neither splits nor classes; give"
    ):
        load_dataset(str(tmp_path), test_only=True)


def test_images_of_several_sizes_have_none_in_common(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3})
    make_folder(tmp_path, {"b": 3}, size=(5, 5))
    assert load_dataset(str(tmp_path)).size is None


def test_the_hash_of_a_folder_changes_with_a_file_and_not_with_its_place(tmp_path: Path) -> None:
    first = load_dataset(str(make_folder(tmp_path / "x", {"a": 3, "b": 3})))
    second = load_dataset(str(make_folder(tmp_path / "y", {"a": 3, "b": 3})))
    assert first.sha256 == second.sha256
    Image.new("RGB", (7, 9)).save(tmp_path / "y/a/0.bmp")
    assert load_dataset(str(tmp_path / "y")).sha256 != first.sha256


def test_folder_errors_say_what_is_wrong(tmp_path: Path) -> None:
    def refused(counts: dict[str, dict[str, int]], message: str) -> None:
        root = tmp_path / re.sub(r"\W", "", message)
        root.mkdir()
        for split, classes in counts.items():
            make_folder(root / split, classes)
        with pytest.raises(ValueError, match=message):
            load_dataset(str(root))

    refused({}, "has no class folders; wanted <class>/<image>, or train/<class>/<image>")
    refused({"": {"a": 3}}, "has the one class folder 'a'; a classifier needs at least 2")
    refused({"": {"a": 3, "b": 0}}, "/b has no images")
    refused({"": {"a": 3, "b": 1}}, "/b has 1 image; training and test need one each")
    refused({"train": {"a": 3, "b": 1}}, "has the folder train but not test, .*; wanted train and test, or")
    refused(
        {"test": {"a": 3, "b": 1}},
        "folder test but not train, to train on or to calibrate int8 on; only eval",
    )
    refused({"valid": {"a": 3, "b": 1}}, "has the folder valid but not test")
    refused({"train": {"a": 3}, "val": {"a": 3}, "valid": {"a": 1}}, "has the folders val and valid; only one can be")
    refused({"train": {"a": 3, "b": 1}, "test": {"a": 1, "c": 1}}, "class 'b' is in .*/train but not in .*/test")
    refused({"train": {"a": 3, "b": 1}, "test": {"a": 1, "b": 1, "c": 1}}, "class 'c' is in .*/test but not in")


def test_copies_of_one_image_are_no_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"a": 5, "b": 5})
    for path in (root / "b").iterdir():
        path.write_bytes((root / "b/0.bmp").read_bytes())
    with pytest.raises(ValueError, match="/b has 1 image, 5 times; training and test need one each"):
        load_dataset(str(root))


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    raw = load_dataset(str(tmp_path))
    bad = tmp_path / "b/0.bmp"
    bad.write_bytes(bad.read_bytes()[:60])
    spec = InputSpec(mode="L", height=8, width=8, resize=(8, 8), background=(255,), mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match=re.escape(f"{bad}: the BMP image is truncated or damaged")):
        for split in (raw.train, raw.test):
            load_into_memory(split, spec)
    bad.write_bytes(b"hello")
    with pytest.raises(ValueError, match=re.escape(f"{bad}: the body (5 bytes")):
        for split in (raw.train, raw.test):
            load_into_memory(split, spec)
    for path in (*raw.train.images, *raw.test.images):
        Path(path).write_bytes(b"hello")
    with pytest.raises(ValueError, match="no image can be read, for example"):
        load_dataset(str(tmp_path))


def test_all_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 30, "b": 30})
    raw = load_dataset(str(tmp_path))
    for index in range(25):
        (tmp_path / f"a/{index}.bmp").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"25 images cannot be used; --skip-bad leaves them out") as caught:
        load_into_memory(raw.whole, SPEC)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and all("is not an image" in line for line in lines[1:21]) and lines[21] == "  and 5 more"


SYSTEMS = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", "lost+found", "System Volume Information")


def test_folders_of_systems_are_skipped_inside_classes_and_beside_them_and_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    for place in (root, root / "cat"):
        for name in SYSTEMS:
            (place / name / "deeper").mkdir(parents=True)
            Image.new("RGB", (7, 9)).save(place / name / "deeper/thumb.png")
    raw = load_dataset(str(root))
    assert raw.classes == ("cat", "dog")
    assert sum(raw.counts.values()) == 8
    assert len(raw.passed_over) == 2 * len(SYSTEMS)
    assert summary_of(raw.passed_over) == dict.fromkeys(SYSTEMS, 2)


def test_every_format_is_read_and_all_else_is_counted_by_suffix(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"a": 3, "b": 3})
    picture = Image.new("RGB", (7, 9))
    for suffix in (".ppm", ".pgm", ".avif", ".webp", ".TIFF"):
        picture.convert("L" if suffix == ".pgm" else "RGB").save(root / f"a/x{suffix}")
    for name in ("a/photo.heic", "a/other.HEIC", "b/plain", "b/labels.csv", "notes.txt", "b/.hidden.jpg"):
        (root / name).write_bytes(b"hello")
    raw = load_dataset(str(root))
    assert np.bincount(raw.whole.labels).tolist() == [8, 3]
    assert summary_of(raw.passed_over) == {".heic": 2, "no suffix": 1, ".csv": 1, ".txt": 1}
    assert load_into_memory(raw.whole, SPEC).images.shape == (11, 9, 7, 1)


def test_the_same_image_in_two_classes_is_named_with_both(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    assert load_dataset(str(root)).ambiguous == ()
    shutil.copy(root / "cat/1.bmp", root / "dog/copy.bmp")
    shutil.copy(root / "cat/1.bmp", root / "dog/again.bmp")
    shutil.copy(root / "cat/2.bmp", root / "cat/harmless.bmp")
    ((one, other),) = load_dataset(str(root)).ambiguous
    assert one == "cat/1.bmp" and other in ("dog/copy.bmp", "dog/again.bmp")


def test_images_stored_nearly_black_are_counted_with_the_levels_met(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    assert load_dataset(str(root)).dark == ""
    for name, largest in (("cat/x.png", 255), ("dog/x.png", 4095), ("dog/y.png", 65535)):
        Image.fromarray(np.linspace(0, largest, 63).reshape(9, 7).astype(np.uint16)).save(root / name)
    (root / "dog/damaged.png").write_bytes((root / "dog/x.png").read_bytes()[:60])
    assert load_dataset(str(root)).dark == (
        "2 of 12 images are nearly black: their levels reach 4,095 of 65,535, as in dog/x.png; "
        "scale them to the whole range"
    )


def test_a_class_whose_name_is_not_utf_8_is_refused_when_the_folder_is_read(tmp_path: Path) -> None:
    """It could be written into no checkpoint; other files' names are escaped."""
    root = make_folder(tmp_path / "photos", {"cat": 4, "dog": 4})
    (root / "cat" / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    assert load_dataset(str(root)).passed_over == ("cat/caf\\xe9.txt",)
    (root / "cat").rename(root / os.fsdecode(b"caf\xe9"))
    with pytest.raises(ValueError, match=r"class folder .*caf\\xe9 has a name that is not UTF-8") as caught:
        load_dataset(str(root))
    str(caught.value).encode()


def test_links_to_folders_are_followed_once_and_any_file_name_is_taken(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "photos", {"cat": 3, "dog": 3})
    elsewhere = make_folder(tmp_path / "elsewhere", {"more": 4})
    (root / "cat/more").symlink_to(elsewhere / "more")
    (root / "cat/around").symlink_to(root / "cat")
    (root / "dog/0.bmp").rename(root / "dog" / os.fsdecode(b"caf\xe9.png"))
    Image.new("RGB", (7, 9)).save(root / "dog/photo.jfif", "JPEG")
    raw = load_dataset(str(root))
    labels = [*raw.train.labels, *raw.test.labels]
    assert (labels.count(0), labels.count(1)) == (7, 4)


def test_samples_of_16_bits_are_scaled_and_transparent_ones_laid_on_the_background(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.full((9, 7), 128 * 257, np.uint16)).save(tmp_path / split / name / "0.png")
    raw = load_dataset(str(tmp_path))
    samples = sample_test_images(raw, load_into_memory(raw.test, SPEC))
    assert {int(original.max()) for original in samples.raw} == {128}
    for path in tmp_path.rglob("*.png"):
        Image.new("LA", (7, 9), (10, 0)).save(path)
    raw = load_dataset(str(tmp_path))
    samples = sample_test_images(raw, load_into_memory(raw.test, SPEC))
    assert {int(original.min()) for original in samples.raw} == {255}
