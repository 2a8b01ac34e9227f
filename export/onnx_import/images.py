"""Comparison images for an imported classifier: the user's, or crops of scikit-learn's two photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from models.checkpoint.samples import VerificationImages
from models.errors import UserError
from models.images.decode import Pixels
from models.images.header import DEFAULT_LIMIT_PIXELS, SUFFIXES
from models.images.input_spec import InputSpec
from training.data.in_memory import load_into_memory
from training.data.raw import LabeledImages, RawDataset
from training.data.sampling import COUNT, sample_test_images
from training.data.walk import images_in

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
CROPS = 32  # of each photograph
SIDE = 224  # of a crop, in pixels


def verification_images(
    paths: Sequence[Path], spec: InputSpec, limit_pixels: int = DEFAULT_LIMIT_PIXELS
) -> tuple[VerificationImages, str]:
    """The images, and a phrase that describes their source.

    Args:
        paths: image files and folders, of which `COUNT` images are used; without any, the built-in photographs.
        spec: the network's input.
        limit_pixels: maximum width x height of an image.

    Raises:
        ValueError: a path is neither a file nor a folder, a folder has no images, or a file is damaged or too large;
            the message names it.
    """
    chosen: Pixels | list[Path]
    if paths:
        found = [file for path in paths for file in _files(path)]
        chosen = [found[index] for index in np.unique(np.linspace(0, len(found) - 1, COUNT).astype(np.int64))]
        source = f"{len(chosen)} images given with --images"
    else:
        chosen = np.concatenate([_crops(name, seed) for seed, name in enumerate(PHOTOGRAPHS)])
        source = f"{len(chosen)} crops of scikit-learn's photographs {' and '.join(PHOTOGRAPHS)}"
    split = LabeledImages(chosen, np.zeros(len(chosen), np.int64))
    raw = RawDataset(
        name=source, classes=(), train=split, test=split, mode=spec.mode, size=None, background=0, sha256=""
    )
    loaded = load_into_memory(split, spec, limit_pixels=limit_pixels)
    return sample_test_images(raw, loaded, limit_pixels=limit_pixels), source


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is neither an image file nor a folder")
    found = sorted(images_in(path, []))
    if not found:
        raise UserError(f"{path} has no images ({', '.join(sorted(SUFFIXES))})")
    return found


def _crops(name: str, seed: int) -> Pixels:
    """Square crops from a seventh of the photograph to its whole height, uint8 (CROPS, SIDE, SIDE, 3)."""
    photograph = Image.fromarray(load_sample_image(name))
    generator = np.random.default_rng(seed)
    crops = []
    for side in np.linspace(photograph.height / 7, photograph.height, CROPS).astype(int).tolist():
        left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
        crops.append(np.asarray(photograph.resize((SIDE, SIDE), box=(left, top, left + side, top + side))))
    return np.stack(crops)
