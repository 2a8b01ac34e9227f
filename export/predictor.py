"""An artifact opened for inference: decodes images, runs them, ranks classes, and returns intermediate values."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from export.artifact.directory import newest_version
from export.artifact.formats import EngineName, FormatEngine, PrecisionName
from export.artifact.manifest import INDEPENDENT_SCORES, ONNX_FILE, Manifest, check_files, read_manifest
from export.engines.cuda import Device
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.engines.protocol import Engine
from export.engines.selection import open_engine
from models.images.decode import Floats, Pixels, decode_image, preprocess_image, to_pil
from models.images.errors import ImageError, NoFiniteScores
from models.images.geometry import oriented_size
from models.images.header import DEFAULT_LIMIT_PIXELS, open_image
from models.results import ImageFailure, Prediction, Result

Image = bytes | str | Path | PillowImage.Image | npt.NDArray[np.uint8]
DEFAULT_TOP_K = 5
BATCH = 32
_KEPT = 64  # images whose results are kept for inspections


class _Results:
    """The served file's results for the last images that were inspected."""

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, tuple[Floats, Floats]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, image: Pixels, engine: Engine) -> tuple[Floats, Floats]:
        key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        with self._lock:
            row = self._rows.get(key)
        row = row or engine.run(image[np.newaxis])
        with self._lock:
            self._rows[key] = row
            self._rows.move_to_end(key)
            if len(self._rows) > _KEPT:
                self._rows.popitem(last=False)
        return row


@dataclass(frozen=True)
class Predictor:
    """One version of a model, ready to run.

    Attributes:
        directory: the artifact.
        manifest: its manifest.
        engine: runs the selected file.
        extractor: returns values inside `model.onnx`; None if the artifact has no such file.
        threads: of one run; 0 leaves the number to the engine.
    """

    directory: Path
    manifest: Manifest
    engine: Engine
    extractor: OnnxFeatureExtractor | None
    threads: int = 0
    _results: _Results = field(default_factory=_Results, init=False, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        artifact: Path,
        *,
        engine: EngineName | FormatEngine = "auto",
        precision: PrecisionName = "fp32",
        device: Device = "auto",
        threads: int = 0,
        check_all: bool = False,
    ) -> "Predictor":
        """Opens an artifact, or the newest version in its name's folder.

        Args:
            engine, precision, device, threads: see `open_engine`.
            check_all: check the hash of every file, not only of the one that runs.

        Raises:
            ArtifactError: a file is missing or was changed.
            EngineError: no file for the engine and the precision, or the device is missing.
        """
        directory = newest_version(artifact)
        manifest = read_manifest(directory)
        opened = open_engine(directory, manifest, engine=engine, precision=precision, device=device, threads=threads)
        if check_all:
            check_files(directory, manifest, but=opened.file)
        return cls(directory, manifest, opened, _extractor(directory, manifest, opened, threads), threads)

    @property
    def label(self) -> str:
        """`name:version`."""
        return f"{self.manifest.name}:{self.manifest.version}"

    def decode(
        self, image: Image, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS, notes: list[str] | None = None
    ) -> Pixels:
        """Decodes an image and brings it to the network's size.

        Args:
            image: a file's bytes or path, a Pillow image, or uint8 (H, W), (H, W, 1) or (H, W, 3) of any size.
            limit_pixels: maximum width x height.
            notes: gets sentences about what is suspicious about a file.

        Returns:
            uint8 (H, W, C) as the manifest specifies.

        Raises:
            ImageError: not an image, damaged or too large.
            OSError: the file cannot be read.
            TypeError: an array of another type or shape.
        """
        spec = self.manifest.input
        if isinstance(image, str | Path):
            image = Path(image).read_bytes()
        if isinstance(image, bytes):
            return decode_image(image, spec, limit_pixels=limit_pixels, notes=notes)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
                raise TypeError(
                    f"the array is {image.dtype} {image.shape}; wanted uint8 (H, W), (H, W, 1) or (H, W, 3)"
                )
            image = to_pil(image)
        return preprocess_image(image, spec)

    def picture_size(self, image: Image, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> tuple[int, int]:
        """(height, width) of an image as it is before `decode` resizes it, its EXIF orientation applied."""
        if isinstance(image, str | Path):
            image = Path(image).read_bytes()
        if isinstance(image, bytes):
            with open_image(image, limit_pixels=limit_pixels, spec=self.manifest.input) as opened:
                return oriented_size(opened)
        return image.shape[:2] if isinstance(image, np.ndarray) else oriented_size(image)

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities and logits, float32 (N, K), of uint8 (N, H, W, C) at the network's size."""
        return self.engine.run(images)

    def served_difference(self, image: Pixels, probabilities: Floats) -> float:
        """Largest difference of probabilities (K,), of another file or network, to those of the file that serves.

        The results of the last images are kept, so that the next inspection of the same image need not run the file.

        Args:
            image: uint8 (H, W, C) at the network's size.
        """
        served, _ = self._results.find(image, self.engine)
        return float(np.abs(served[0] - probabilities).max())

    def classify(
        self, images: Sequence[Image], *, top_k: int | None = None, limit_pixels: int = DEFAULT_LIMIT_PIXELS
    ) -> list[Result]:
        """Classifies images in batches; an image that cannot be read or decoded gets an error, the others results.

        Args:
            top_k: predictions for each image, at least 1, limited to the number of classes. Five if None.
            limit_pixels: larger images get an error.
        """
        count = DEFAULT_TOP_K if top_k is None else top_k
        results: list[Result] = []
        for start in range(0, len(images), BATCH):
            notes = [notes_on_scores(self.manifest) for _ in images[start : start + BATCH]]
            decoded = [
                self._decode_or_failure(image, found, limit_pixels)
                for image, found in zip(images[start : start + BATCH], notes, strict=True)
            ]
            good = [pixels for pixels in decoded if not isinstance(pixels, ImageFailure)]
            rows = iter(self.run(np.stack(good))[0] if good else ())
            results += [
                Result(error=one) if isinstance(one, ImageFailure) else self.result(next(rows), count, found)
                for one, found in zip(decoded, notes, strict=True)
            ]
        return results

    def _decode_or_failure(self, image: Image, notes: list[str], limit_pixels: int) -> Pixels | ImageFailure:
        try:
            return self.decode(image, limit_pixels=limit_pixels, notes=notes)
        except OSError as error:
            return ImageFailure("file_unreadable", str(error.strerror or error))
        except ImageError as error:
            return ImageFailure(error.code, str(error))

    def result(self, probabilities: Floats, top_k: int, notes: Sequence[str] = ()) -> Result:
        """The most probable classes of one image, or the error that its probabilities (K,) are not finite."""
        try:
            rows = top_predictions(probabilities, self.manifest.classes, top_k)
        except ImageError as error:
            return Result(error=ImageFailure(error.code, str(error)))
        found = tuple(Prediction(row["label"], row["index"], float(row["probability"])) for row in rows)
        return Result(found, notes=tuple(notes))


def _extractor(directory: Path, manifest: Manifest, engine: Engine, threads: int) -> OnnxFeatureExtractor | None:
    if ONNX_FILE not in manifest.files:
        return None
    device: Device = "auto" if engine.device == "cuda" else "cpu"  # the GPU may be used by torch, not ONNX Runtime
    sha256 = manifest.files[ONNX_FILE].sha256
    return OnnxFeatureExtractor(directory / ONNX_FILE, manifest.nodes, sha256=sha256, device=device, threads=threads)


def top_predictions(probabilities: Floats, classes: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` most probable classes of one image, most probable first; ties in the order of the classes.

    Args:
        probabilities: (K,).
        classes: K names.
        top_k: at least 1.

    Raises:
        NoFiniteScores: a probability is not finite.
    """
    if not isfinite(probabilities.dot(probabilities)):  # three times as fast as asking for each of a few
        raise NoFiniteScores
    order = (-probabilities).argsort(kind="stable")[:top_k]
    return [{"label": classes[index], "index": index, "probability": probabilities[index]} for index in order.tolist()]


def notes_on_scores(manifest: Manifest) -> list[str]:
    """Sentences that every result of a model carries: one if the scores of its classes are independent."""
    return [INDEPENDENT_SCORES] if manifest.independent_scores else []


def default_top_k(manifest: Manifest) -> int:
    """Five, or all classes if there are fewer."""
    return min(DEFAULT_TOP_K, len(manifest.classes))
