"""golden.npz: real images and the trained network's probabilities for them, checked whenever a file is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.artifact.formats import run_key
from export.artifact.manifest import GOLDEN_FILE, ArtifactError, Manifest
from models.files import NPZ_ERRORS, atomic_write
from models.images.decode import Floats, Pixels, preprocess_image, to_pil

if TYPE_CHECKING:
    from export.engines.protocol import Engine

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}  # maximum difference of a probability; GPUs sum in another order
REDUCED_TOLERANCE = 0.01  # for fp16 and int8, added to the difference at export: other processors round differently


def save_golden(directory: Path, raw: tuple[Pixels, ...], probabilities: Floats) -> None:
    """Writes images before resizing, uint8 (H, W) or (H, W, 3), and the probabilities expected for them."""
    arrays: dict[str, Any] = {f"raw_{index:03}": image for index, image in enumerate(raw)}
    with atomic_write(directory / GOLDEN_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, **arrays)


def read_golden(directory: Path) -> tuple[list[Pixels], Floats]:
    """The golden images before resizing, uint8 (H, W) or (H, W, 3), and the expected probabilities (N, K).

    Raises:
        ArtifactError: the file is missing or has another form.
    """
    path = directory / GOLDEN_FILE
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            raw = [file[name] for name in sorted(file.files) if name.startswith("raw_")]
            return raw, file["probabilities"]
    except NPZ_ERRORS as error:
        raise ArtifactError(f"{path}: {error}") from None


def load_golden(directory: Path, manifest: Manifest) -> tuple[Pixels, Floats]:
    """The golden images, resized to the network's input (N, H, W, C), and the expected probabilities (N, K).

    Raises:
        ArtifactError: the file is missing or has another form.
    """
    raw, expected = read_golden(directory)
    try:
        return np.stack([preprocess_image(to_pil(image), manifest.input) for image in raw]), expected
    except NPZ_ERRORS as error:
        raise ArtifactError(f"{directory / GOLDEN_FILE}: {error}") from None


def check_golden(engine: "Engine", directory: Path, manifest: Manifest) -> float:
    """Runs the golden images through an engine, resizing included.

    Returns:
        The largest difference of a probability.

    Raises:
        ArtifactError: an image's probabilities differ by more than `TOLERANCE`, or its top-1 class differs. Files of
            lower precision may differ by the difference at export plus `REDUCED_TOLERANCE`, and in the top-1 class.
    """
    images, expected = load_golden(directory, manifest)
    found, _ = engine.run(images)
    wanted = (len(images), len(manifest.classes))
    if not found.shape == expected.shape == wanted:
        raise ArtifactError(
            f"{directory / engine.file}: gives {found.shape} for golden images, {expected.shape} is recorded, "
            f"and {len(manifest.classes)} classes want {wanted}"
        )
    differences = np.abs(found - expected).max(axis=1)
    worst = int(np.nan_to_num(differences, nan=np.inf).argmax())
    entry = manifest.runs.get(run_key(engine.file, engine.name)) or manifest.files.get(engine.file)
    parity = entry.parity if entry else {}
    reduced = bool(parity) and parity["limit"] is None
    tolerance = parity["maximum_difference"] + REDUCED_TOLERANCE if reduced else TOLERANCE[engine.device]
    if not differences[worst] <= tolerance:
        raise ArtifactError(
            f"{directory / engine.file}: golden image {worst} differs by {differences[worst]:.2g} "
            f"from the trained network on {engine.name} ({engine.device}); the limit is {tolerance:g}"
        )
    if not reduced and len(other := np.flatnonzero(found.argmax(axis=1) != expected.argmax(axis=1))):
        raise ArtifactError(f"{directory / engine.file}: golden image {other[0]} is of another class than recorded")
    return float(differences[worst])
