"""A folder of class folders as a data set."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from models.files import sha256_of
from models.inputs import FORMATS, InputSpec
from training.raw import SPLIT_SEED, TEST_FRACTION, RawDataset, RawSplit, split_off
from training.tensors import pixels_of

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
SAMPLED = 200  # images whose headers decide the common mode and size
WHITE = 255
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B"})


def load_folder(root: Path, *, skip_bad: bool = False) -> RawDataset:
    """Reads `root/train/<class>/...` and `root/test/<class>/...`, optionally `root/val/<class>/...`.

    Without `train` and `test` the class folders are in `root` itself, and a fixed fifth of each becomes the test split.
    Files that are no images by their suffix are passed over, and so is what begins with a dot. With `skip_bad` every
    file is decoded once, and those that cannot be are left out and named.

    Raises:
        ValueError: no class folders, one only, one without images, classes that differ between splits, or a damaged
            file among those sampled; the message names it.
    """
    parts = {name: root / name for name in ("train", "test", "val") if (root / name).is_dir()}
    bad: list[Path] = []
    found_bad = bad if skip_bad else None
    if not parts:
        classes, whole = _scan(root, found_bad)
        counts = np.bincount(whole.labels)
        if counts.min() < 2:
            raise ValueError(
                f"class folder {root / classes[counts.argmin()]} has 1 image; training and test need one each"
            )
        kept, held = split_off(whole.labels, fraction=TEST_FRACTION, seed=SPLIT_SEED)
        splits = {"train": whole.take(kept), "test": whole.take(held)}
    elif not {"train", "test"} <= parts.keys():
        missing = ({"train", "test"} - parts.keys()).pop()
        raise ValueError(
            f"{root} has the folder {min(parts)} but not {missing}; both must be there, or class folders only"
        )
    else:
        scanned = {name: _scan(path, found_bad) for name, path in parts.items()}
        classes = scanned["train"][0]
        for name, (found, _) in scanned.items():
            _check_same_classes(parts["train"], classes, parts[name], found)
        splits = {name: split for name, (_, split) in scanned.items()}
    paths = [path for name in sorted(splits) for path in splits[name].images]
    mode, size = _common(paths)
    return RawDataset(
        name=root.resolve().name,
        classes=classes,
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("val"),
        mode=mode,
        size=size,
        background=WHITE,
        sha256=_hash(root, sorted(paths)),
        left_out=tuple(sorted(path.relative_to(root).as_posix() for path in bad)),
    )


def _scan(folder: Path, bad: list[Path] | None) -> tuple[tuple[str, ...], RawSplit]:
    """The classes of a folder of class folders, sorted, and its images; damaged ones go to `bad` if it is given."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no class folders; wanted {folder}/<class>/<image> or {folder}/train and /test")
    if len(names) == 1:
        raise ValueError(f"{folder} has the one class folder {names[0]!r}; a classifier needs at least 2")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(_images_in(folder / name))
        if not found:
            raise ValueError(f"class folder {folder / name} has no images ({', '.join(sorted(SUFFIXES))})")
        if bad is not None:
            damaged = _damaged(found)
            bad += damaged
            found = sorted(set(found) - set(damaged))
            if not found:
                raise ValueError(f"class folder {folder / name} has damaged images only, for example {damaged[0]}")
        paths += found
        labels += [label] * len(found)
    return tuple(names), RawSplit(paths, np.asarray(labels, dtype=np.int64))


def _damaged(paths: Sequence[Path]) -> list[Path]:
    """Those that cannot be decoded. The size they are decoded to is of no matter here."""
    spec = InputSpec(mode="RGB", height=8, width=8, resize=(8, 8), background=(0,) * 3, mean=(0.0,) * 3, std=(1.0,) * 3)

    def decodes(path: Path) -> bool:
        try:
            pixels_of(path, spec)
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        return [path for path, good in zip(paths, pool.map(decodes, paths), strict=True) if not good]


def _images_in(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # a link to what holds it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path


def _check_same_classes(first: Path, wanted: Sequence[str], second: Path, found: Sequence[str]) -> None:
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"class {missing[0]!r} is in {first} but not in {second}; both must have the same classes")
    if extra := sorted(set(found) - set(wanted)):
        raise ValueError(f"class {extra[0]!r} is in {second} but not in {first}; both must have the same classes")


def _common(paths: Sequence[Path]) -> tuple[Literal["L", "RGB"], tuple[int, int] | None]:
    """Grey if every sampled image is; their (height, width) if all have the same."""
    modes, sizes = set(), set()
    for path in paths[:: -(-len(paths) // SAMPLED)]:
        try:
            with Image.open(path, formats=FORMATS) as image:
                modes.add(image.mode)
                sizes.add((image.height, image.width))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is not an image that can be read: {error}") from None
    return "L" if modes <= GREY_MODES else "RGB", sizes.pop() if len(sizes) == 1 else None


def _hash(root: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for path, content in zip(paths, pool.map(sha256_of, paths), strict=True):
            digest.update(os.fsencode(f"{path.relative_to(root).as_posix()}\0{content}\n"))  # names need not be UTF-8
    return digest.hexdigest()
