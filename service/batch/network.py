"""The part of a job that runs the network: batches of a fixed size in, probabilities and further values out."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from export.artifact.formats import EngineName, PrecisionName, run_key
from export.artifact.manifest import MANIFEST_FILE
from export.engines.cuda import Device
from export.predictor import Predictor
from models.errors import UserError
from models.files import sha256_of
from models.images.decode import Floats, Pixels

_BATCH_BYTES = 5_000_000  # of decoded images, so that a batch stays in the processor's cache
_LARGEST, _SMALLEST = 256, 8
MOST_VALUES = 65_536  # of an embedding


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a job makes of an image, beside its classes.

    Attributes:
        top_k: number of classes.
        logits: also the logits.
        layer: also the values of this layer, by its name in `convscope summary`; empty for none.
    """

    top_k: int
    logits: bool = False
    layer: str = ""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How an artifact is opened; can be sent to another process.

    Attributes:
        artifact: its directory.
        engine, precision, device, threads: see `export.engines.selection.open_engine`.
    """

    artifact: Path
    engine: EngineName = "auto"
    precision: PrecisionName = "fp32"
    device: Device = "auto"
    threads: int = 0


class Network:
    """An artifact's file, and the layer that is wanted beside its answers.

    Args:
        opening: the artifact.
        wanted: what is made of an image.

    Raises:
        ArtifactError, EngineError: see `Predictor.open`.
        UserError: the artifact has no such layer, or too many values in it.
    """

    def __init__(self, opening: Opening, wanted: Wanted) -> None:
        self.predictor = Predictor.open(
            opening.artifact,
            engine=opening.engine,
            precision=opening.precision,
            device=opening.device,
            threads=opening.threads,
        )
        self.wanted = wanted
        self._value, self.embedding = self._find_layer(wanted.layer) if wanted.layer else ("", 0)

    @property
    def classes(self) -> tuple[str, ...]:
        """By index."""
        return self.predictor.manifest.classes

    @property
    def about(self) -> dict[str, Any]:
        """What of a job's description depends on the artifact."""
        manifest = self.predictor.manifest
        return {
            "artifact": sha256_of(self.predictor.directory / MANIFEST_FILE),
            "model": manifest.name,
            "version": manifest.version,
            "file": run_key(self.predictor.engine.file, self.predictor.engine.name),
        }

    @property
    def class_counts(self) -> list[int] | None:
        """Training images by class, if the artifact has them."""
        counts = self.predictor.manifest.dataset.get("class_counts")
        return list(map(int, counts)) if isinstance(counts, list) and len(counts) == len(self.classes) else None

    @property
    def batch_size(self) -> int:
        """Images of a batch: as many as fit into the processor's cache, a power of two."""
        pixels = prod(self.predictor.manifest.input.shape)
        size = _LARGEST
        while size > _SMALLEST and size * pixels > _BATCH_BYTES:
            size //= 2
        return size

    def run(self, images: Pixels) -> tuple[Floats, Floats, Floats | None]:
        """Probabilities and logits (N, K), and the layer's values (N, D) if wanted, of uint8 images (N, H, W, C)."""
        probabilities, logits = self.predictor.run(images)
        if not self._value:
            return probabilities, logits, None
        assert self.predictor.extractor is not None, "checked with the layer"
        _, (values,) = self.predictor.extractor.run(images, [self._value])
        return probabilities, logits, values.reshape(len(images), -1)

    def _find_layer(self, name: str) -> tuple[str, int]:
        manifest, extractor = self.predictor.manifest, self.predictor.extractor
        if extractor is None:
            raise UserError(f"--layer needs model.onnx, which {self.predictor.label} does not have")
        node = next((node for node in manifest.nodes if node.name == name and node.value), None)
        if node is None:
            names = ", ".join(node.name for node in manifest.nodes[-8:])
            raise UserError(f"{self.predictor.label} has no layer {name!r}; the last ones are {names}")
        count = prod(node.shape)
        if count > MOST_VALUES:
            raise UserError(f"the layer {name} has {count:,} values for an image; the limit is {MOST_VALUES:,}")
        return node.value, count
