"""docs/deploy.md taken apart, and what its programs are run on: an artifact, and images with the network's answers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.pipeline.export import export_checkpoint
from export.verify.reference import reference
from models.checkpoint.directory import load_checkpoint
from models.images.decode import Pixels, decode_image
from tests.conftest import make_checkpoint

TEXT = (Path(__file__).parents[2] / "docs/deploy.md").read_text()
BLOCKS = re.compile(r"```(?:python|html|yaml)\n(?:# |<!-- )(\w+\.\w+)(?: -->)?\n(.*?)```", re.DOTALL)
PROGRAMS = dict(BLOCKS.findall(TEXT))
INPUTS: dict[str, dict[str, Any]] = {
    "stretched": {"size": 28, "channels": 1},
    "cropped": {"size": 32, "channels": 3, "resize": 36, "crop": (32, 32), "interpolation": "bicubic"},
}
IMAGES = 100


@dataclass(frozen=True)
class Deployed:
    """An artifact, images, and the trained network's answers to them.

    Attributes:
        paths: the image files.
        pixels: as the network takes them.
        labels: the first class of each.
        probabilities: of the first class of each.
    """

    artifact: Path
    paths: list[Path]
    pixels: Pixels
    labels: list[str]
    probabilities: np.ndarray

    def check(self, labels: list[str], probabilities: list[float]) -> None:
        """Whether a program's answers, rounded to four digits or not, are the network's."""
        np.testing.assert_array_equal(labels, self.labels)
        np.testing.assert_allclose(probabilities, self.probabilities, atol=2e-4)
        assert len(set(labels)) > 1, "every image is of one class, which proves nothing"


def deploy(base: Path, kind: str, paths: list[Path]) -> Deployed:
    """A small network that takes images in one of the ways of `INPUTS`; exported once for each `base`."""
    folder = base / f"deployed-{kind}"
    artifact = folder / "artifacts/run/1"
    if not artifact.exists():
        artifact = export_checkpoint(
            make_checkpoint(folder / "run", model="simple_cnn", **INPUTS[kind]), out=folder / "artifacts"
        )
    checkpoint = load_checkpoint(folder / "run")
    pixels = np.stack([decode_image(path.read_bytes(), checkpoint.config.input) for path in paths])
    probabilities, _ = reference(checkpoint)(pixels)
    labels = [checkpoint.config.classes[row.argmax()] for row in probabilities]
    return Deployed(artifact, paths, pixels, labels, probabilities.max(1))


def noise(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """A smooth colour image."""
    coarse = generator.integers(0, 256, (generator.integers(3, 9), generator.integers(3, 9), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder: Path) -> list[Path]:
    """JPEG files in all proportions, one of them turned by its EXIF orientation."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{index:03}.jpg" for index in range(IMAGES)]
    for index, path in enumerate(paths):
        width, height = (int(side) for side in generator.integers(40, 120, 2))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 0 else 1
        noise(generator, width, height).save(path, quality=90, exif=exif)
    return paths
