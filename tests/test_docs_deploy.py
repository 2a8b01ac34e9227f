"""The programs of docs/deploy.md get the trained network's answers, without our code."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_checkpoint
from PIL import Image

from export.pipeline import export_checkpoint, reference
from models.checkpoint import load_checkpoint
from models.inputs import decode_image

TEXT = (Path(__file__).parents[1] / "docs/deploy.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
INPUTS: dict[str, dict[str, Any]] = {
    "stretched": {"size": 28, "channels": 1},
    "cropped": {"size": 32, "channels": 3, "resize": 36, "crop": (32, 32), "interpolation": "bicubic"},
}
IMAGES = 100


def test_the_page_has_the_programs_and_each_is_short() -> None:
    assert set(PROGRAMS) == {"classify_onnx.py", "classify_torchscript.py"}
    for program in PROGRAMS.values():
        assert len([line for line in program.splitlines() if line.strip()]) < 30
        assert not re.search(r"\b(models|training|export|service|convscope)\b\.", program.replace("convscope.json", ""))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEG files of smooth noise in all proportions, one of them turned by its EXIF orientation."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / f"{index:03}.jpg" for index in range(IMAGES)]
    for index, path in enumerate(paths):
        coarse = generator.integers(0, 256, (generator.integers(3, 9), generator.integers(3, 9), 3), dtype=np.uint8)
        size = tuple(int(side) for side in generator.integers(40, 120, 2))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 0 else 1
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90, exif=exif)
    return paths


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", INPUTS)
def test_the_answers_are_the_trained_networks(program: str, kind: str, photos: list[Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "run", model="simple_cnn", **INPUTS[kind]))
    artifact = export_checkpoint(tmp_path / "run", out=tmp_path / "artifacts")
    (tmp_path / program).write_text(PROGRAMS[program])
    file = artifact / ("model.onnx" if "onnx" in program else "model.ts")
    words = [sys.executable, "-W", "ignore", "-I", str(tmp_path / program), str(file), *map(str, photos)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [line.split("\t") for line in done.stdout.splitlines()]
    images = np.stack([decode_image(path.read_bytes(), checkpoint.config.input) for path in photos])
    probabilities, _ = reference(checkpoint)(images)
    classes = checkpoint.config.classes
    assert [(path, label) for path, label, _ in found] == [
        (str(path), classes[row.argmax()]) for path, row in zip(photos, probabilities, strict=True)
    ]
    np.testing.assert_allclose([float(row[2]) for row in found], probabilities.max(1), atol=2e-4)
    assert len({label for _, label, _ in found}) > 1
