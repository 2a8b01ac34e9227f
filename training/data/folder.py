"""A folder of class folders as a data set."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.errors import UserError
from models.files import printable, sha256_of
from models.images.decode import decode_image, decode_opened
from models.images.depth import darkness, depth_of, with_stated_scale
from models.images.errors import ImageError
from models.images.header import DEFAULT_LIMIT_PIXELS, SUFFIXES, open_image
from models.images.input_spec import InputSpec
from training.data.options import reason_of
from training.data.raw import LabeledImages, RawDataset, select_test_images
from training.data.walk import files_in, images_in, is_hidden, is_system, subfolders

VALIDATION = ("val", "valid", "validation")
SAMPLED = 2000  # headers sampled for the common mode and size; reading one takes 0.2 ms
NESTED, NEARBY = 3, 100  # levels and folders that are searched for the data set which was meant
WHITE = 255
TINY = InputSpec(mode="RGB", height=8, width=8, resize=(8, 8), background=(0,) * 3, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B"})


def load_folder(
    root: Path, *, skip_bad: bool = False, test_only: bool = False, limit_pixels: int = DEFAULT_LIMIT_PIXELS
) -> RawDataset:
    """Reads `root/train/<class>/...` and `root/test/<class>/...`, optionally `root/val/<class>/...`.

    `valid` and `validation` are aliases of `val`, and `Train` with `Test` of `train` and `test`. Without `test`, `val`
    is the test split, as with ImageNet, and validation images are drawn from `train`. Without any of these the class
    folders are in `root` itself, and `select_test_images` draws the test split. Names that begin with a dot are
    ignored; files without an image suffix and folders of systems are passed over and counted.

    Args:
        skip_bad: decode every file once and leave out those that cannot be decoded.
        test_only: ignore a missing or faulty `train`; one class is enough, and splits may have different classes.
        limit_pixels: larger images count as damaged.

    Raises:
        ValueError: a missing split, splits with other names, fewer than two class folders, one without images, classes
            that differ between splits, or a damaged file in the sample.
    """
    places = _splits_in(root, test_only=test_only)
    bad: dict[Path, str] = {}
    passed_over: list[Path] = []
    scanned = {}
    for name, place in (places or {"": root}).items():
        try:
            scanned[name] = _scan(
                place, bad if skip_bad else None, passed_over, limit_pixels, least=1 if test_only else 2
            )
        except ValueError:
            if not (test_only and name in ("train", "val")):
                raise
    for name in () if test_only else places:
        _check_same_classes(places["train"], scanned["train"], places[name], scanned[name])
    classes = tuple(sorted(set().union(*scanned.values())))
    splits = {name: _labelled(found, classes) for name, found in scanned.items()}
    paths = [path for name in sorted(splits) for path in splits[name].images]
    sampled = ["test"] if test_only and places else sorted(splits)
    mode, size, dark = _common(root, [path for name in sampled for path in splits[name].images], limit_pixels)
    with ThreadPoolExecutor() as pool:
        contents = dict(zip(paths, pool.map(sha256_of, paths), strict=True))
    if not places:
        whole = splits[""]
        chosen = select_test_images(whole.labels, [contents[path] for path in paths])
        if not test_only:
            _check_both_sides(root, classes, whole, chosen)
        splits = {"train": whole.take(np.flatnonzero(~chosen)), "test": whole.take(np.flatnonzero(chosen))}
    return RawDataset(
        name=root.resolve().name,
        test_folder=places["test"].name if places and places["test"].name.lower() != "test" else "",
        classes=classes,
        train=splits.get("train", LabeledImages([], np.zeros(0, np.int64))),
        test=splits["test"],
        validation=splits.get("val"),
        mode=mode,
        size=size,
        background=WHITE,
        sha256=_hash(root, contents, {} if places else splits),
        unsplit=not places,
        duplicates=0 if test_only or not places else _duplicates(splits, contents),
        skipped_files={printable(path.relative_to(root).as_posix()): bad[path] for path in sorted(bad)},
        passed_over=_relative(root, passed_over + _beside([root, *places.values()])),
        ambiguous=_ambiguous(root, splits, contents),
        dark=dark,
        root=root,
    )


def _splits_in(root: Path, *, test_only: bool) -> dict[str, Path]:
    """Folders of the splits `train`, `test` and `val`; none in a flat folder, which may have a class `valid`."""
    folders = {path.name: path for path in subfolders(root)}
    smaller = {name.lower(): path for name, path in folders.items()}
    splits = {"train", "test", *VALIDATION} & smaller.keys()
    if len(smaller) == len(folders) and splits and (splits > {"train"} or splits == smaller.keys()):
        folders = smaller  # otherwise `Train` may be a class of vehicles
    found = {name: folders[name] for name in ("train", "test", *VALIDATION) if name in folders}
    others = sorted(folders.keys() - found.keys())
    if not {"train", "test", "val"} & found.keys() and (others or not found):
        _check_classes(root, folders)
        return {}
    validation = [name for name in VALIDATION if name in found]
    if len(validation) > 1:
        raise UserError(f"{root} has the folders {' and '.join(validation)}; only one can be the validation split")
    if "test" not in found and validation and (test_only or "train" in found):
        _check_classes(root, {name: folders[name] for name in ("train", *others) if name in folders})
        found["test"] = found.pop(validation[0])
    if "test" not in found:
        wanted = "test" if test_only else "train and test"
        raise UserError(
            f"{root} has the folder {min(found)} but not test, to measure on; wanted {wanted}, or class folders only"
            f"{'' if test_only else instead_of(root)}"
        )
    if "train" not in found and not test_only:
        raise UserError(
            f"{root} has the folder {min(found)} but not train, to train on or to calibrate int8 on; "
            "only evaluate and verify take test alone"
        )
    if "train" not in found and others:
        raise UserError(
            f"{root} has the folder {found['test'].name} beside {', '.join(others)}, and so is neither splits nor "
            f"classes; give {found['test']} to measure on that alone"
        )
    return {"val" if name in VALIDATION else name: place for name, place in found.items()}


def _check_classes(root: Path, folders: Mapping[str, Path]) -> None:
    """Refuses splits with other names, such as `seg_train` and `seg_test` with the same classes."""
    training = [path for name, path in folders.items() if "train" in name.lower()]
    other = [path for name, path in folders.items() if any(word in name.lower() for word in ("test", "val"))]
    for first, second in product(training, other):
        inside = [{path.name for path in folder.iterdir() if path.is_dir()} for folder in (first, second)]
        if first != second and inside[0] and inside[0] == inside[1]:
            raise UserError(
                f"{root} has the folders {first.name} and {second.name} with the same folders inside "
                f"({', '.join(sorted(inside[0]))[:80]}); splits must be called train and test (and val)"
            )


def _scan(
    folder: Path, bad: dict[Path, str] | None, passed_over: list[Path], limit_pixels: int, *, least: int
) -> dict[str, list[Path]]:
    """The images of each class folder, both sorted; damaged ones are added to `bad` if it is given."""
    names = [path.name for path in subfolders(folder)]
    if not names:
        raise UserError(
            f"{folder} has no class folders; wanted <class>/<image>, or train/<class>/<image> and test/<class>/<image>"
            f"{instead_of(folder)}"
        )
    if len(names) < least:
        raise UserError(
            f"{folder} has the one class folder {names[0]!r}; a classifier needs at least 2{instead_of(folder)}"
        )
    images: dict[str, list[Path]] = {}
    for name in names:
        if (shown := printable(name)) != name:
            raise UserError(f"class folder {printable(folder)}/{shown} has a name that is not UTF-8; rename it")
        found = sorted(images_in(folder / name, passed_over))
        if not found:
            raise UserError(f"class folder {folder / name} has no images ({', '.join(sorted(SUFFIXES))})")
        if bad is not None:
            damaged = _damaged(found, limit_pixels)
            bad |= damaged
            found = [path for path in found if path not in damaged]
            if not found:
                path, why = next(iter(damaged.items()))
                raise UserError(f"class folder {folder / name} has damaged images only, for example {path}: {why}")
        images[name] = found
    return images


def instead_of(folder: Path) -> str:
    """The end of a refusal: the nearest folder, below or above, that is a data set; empty if there is none."""
    try:
        found = _nearby(folder) if folder.is_dir() else None
    except (OSError, UserError):  # a folder that cannot be read; the refusal has its own reason
        return ""
    return f"; did you mean {printable(found)}?" if found else ""


def _nearby(folder: Path) -> Path | None:
    below, level = [], [folder]
    for _ in range(NESTED):
        level = [path for place in level for path in subfolders(place)][:NEARBY]
        below += level
    above = Path(os.path.normpath(folder / ".."))
    # Other folders above may have images by chance, such as one with data sets beside each other.
    around = [above] if all(_has_images(path) for path in subfolders(above)[:NEARBY]) else []
    return next((path for path in [*below, *around] if _is_data_set(path)), None)


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _is_data_set(folder: Path) -> bool:
    """True if there are two or more class folders, each with images, in each of its splits or in itself."""
    folders = {path.name.lower(): path for path in subfolders(folder)}
    splits = [folders[name] for name in ("train", "test", *VALIDATION) if name in folders]
    complete = {"train", "test"} <= folders.keys() or ("train" in folders and len(splits) > 1)
    return all(
        len(classes := subfolders(place)) > 1 and all(any(images_in(path, [])) for path in classes)
        for place in (splits if complete else [folder])
    )


def _labelled(images: dict[str, list[Path]], classes: Sequence[str]) -> LabeledImages:
    labels = np.repeat([classes.index(name) for name in images], [len(found) for found in images.values()])
    return LabeledImages([path for found in images.values() for path in found], labels.astype(np.int64))


def _check_both_sides(root: Path, classes: Sequence[str], whole: LabeledImages, chosen: npt.NDArray[np.bool_]) -> None:
    held = np.bincount(whole.labels[chosen], minlength=len(classes))
    if not held.all():
        label = int(held.argmin())
        copies = int((whole.labels == label).sum())
        many = f", {copies} times" if copies > 1 else ""
        raise UserError(f"class folder {root / classes[label]} has 1 image{many}; training and test need one each")


def _damaged(paths: Sequence[Path], limit_pixels: int) -> dict[Path, str]:
    """The files that cannot be decoded at any size, with the reasons."""

    def fault(path: Path) -> str:
        try:
            decode_image(path.read_bytes(), TINY, limit_pixels=limit_pixels)
        except ImageError as error:
            return reason_of(error)
        return ""

    with ThreadPoolExecutor() as pool:
        faults = zip(paths, pool.map(fault, paths), strict=True)
        return {path: found for path, found in faults if found}


def _check_same_classes(first: Path, wanted: Iterable[str], second: Path, found: Iterable[str]) -> None:
    if missing := sorted(set(wanted) - set(found)):
        raise UserError(f"class {missing[0]!r} is in {first} but not in {second}; both must have the same classes")
    if extra := sorted(set(found) - set(wanted)):
        raise UserError(f"class {extra[0]!r} is in {second} but not in {first}; both must have the same classes")


def _common(
    root: Path, paths: Sequence[Path], limit_pixels: int
) -> tuple[Literal["L", "RGB"], tuple[int, int] | None, str]:
    """The mode, grey if every sampled image is, the common (height, width), if any, and a sentence on dark images.

    The sample is random with a fixed seed: a regular stride could coincide with a pattern in the names.
    """
    modes, sizes, fault = set(), set(), ""
    dark: dict[Path, tuple[int, int]] = {}
    sample = [paths[index] for index in np.random.default_rng(0).permutation(len(paths))[:SAMPLED]]
    for path in sample:
        try:
            data = path.read_bytes()
            with open_image(data, limit_pixels=limit_pixels, spec=TINY) as image:
                modes.add(image.mode)
                sizes.add((image.height, image.width))
                depth = depth_of(image, data)
                if depth.bits > 8:
                    decode_opened(image, data, TINY)
                    if levels := darkness(with_stated_scale(image, data, depth), depth):
                        dark[path] = levels
        except ImageError as error:  # all damaged files are named together when they are decoded
            fault = f"{path}: {reason_of(error)}"
    if not modes:
        raise UserError(f"no image can be read, for example {fault}")
    return "L" if modes <= GREY_MODES else "RGB", sizes.pop() if len(sizes) == 1 else None, _on(root, dark, len(sample))


def _on(root: Path, dark: dict[Path, tuple[int, int]], sampled: int) -> str:
    """The sentence about images that are nearly black; empty if there are none."""
    if not dark:
        return ""
    brightest = max(dark, key=lambda path: dark[path][0] / dark[path][1])
    largest, scale = dark[brightest]
    return (
        f"{len(dark):,} of {sampled:,} images are nearly black: their levels reach {largest:,} of {scale:,}, as in "
        f"{_relative(root, [brightest])[0]}; scale them to the whole range"
    )


def _relative(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(printable(path.relative_to(root).as_posix()) for path in paths))


def _beside(folders: Iterable[Path]) -> list[Path]:
    """Files beside splits and class folders, and in folders of systems there; classes count their own."""
    found = []
    for path in (path for folder in folders for path in folder.iterdir()):
        if path.is_dir() and is_system(path.name):
            found += files_in(path)
        elif not is_hidden(path.name) and path.is_file():
            found.append(path)
    return found


def _ambiguous(root: Path, splits: dict[str, LabeledImages], contents: dict[Path, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of files with the same content and different classes, the first two of each content."""
    first: dict[str, tuple[Path, int]] = {}
    pairs: dict[str, tuple[str, str]] = {}
    for split in splits.values():
        for path, label in zip(split.images, split.labels.tolist(), strict=True):
            known, known_label = first.setdefault(contents[path], (path, label))
            if known_label != label:
                one, other = _relative(root, (known, path))
                pairs.setdefault(contents[path], (one, other))
    return tuple(sorted(pairs.values()))


def _duplicates(splits: dict[str, LabeledImages], contents: dict[Path, str]) -> int:
    """The number of test images that are also training images."""
    trained, tested = ({contents[path] for path in splits[name].images} for name in ("train", "test"))
    return sum(contents[path] in trained & tested for path in splits["test"].images)


def _hash(root: Path, contents: dict[Path, str], drawn: dict[str, LabeledImages]) -> str:
    """SHA-256 over names and contents; names in a split `drawn` here get its name as a prefix, as if in its folder."""
    side = {path: f"{name}/" for name, split in drawn.items() for path in split.images}
    digest = hashlib.sha256()
    for path in sorted(contents):
        name = side.get(path, "") + path.relative_to(root).as_posix()
        digest.update(os.fsencode(f"{name}\0{contents[path]}\n"))  # names need not be UTF-8
    return digest.hexdigest()
