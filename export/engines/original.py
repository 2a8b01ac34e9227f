"""The imported classifier itself, run as its author intended: the reference for its wrapped form."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from export.engines.onnxruntime import open_session
from models.images.decode import Floats, Pixels
from models.images.input_spec import InputSpec

MODEL = "onnx"  # `Manifest.model` of artifacts made from an imported file; no network is registered under this name
Gives = Literal["logits", "probabilities", "sigmoid"]
Layout = Literal["NCHW", "NHWC"]
ChannelOrder = Literal["RGB", "BGR"]
_DTYPES = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How an imported file takes images and returns scores; a part of `Manifest.options`.

    Attributes:
        output: name of the output to use.
        gives: kind of that output; `sigmoid` is a score of its own for each class, or one score for the second of two.
        layout: order of the axes of its images.
        channel_order: order of their channels.
        original_batch: number of images that it takes, where it declares any number.
    """

    output: str
    gives: Gives
    layout: Layout = "NCHW"
    channel_order: ChannelOrder = "RGB"
    original_batch: int | None = None

    def to_options(self) -> dict[str, Any]:
        """The entries of `Manifest.options`, without those that have their default."""
        usual = {field.name: field.default for field in fields(self)}
        return {key: value for key, value in asdict(self).items() if value != usual[key]}

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "Conventions":
        """Parses the result of `to_options`, which other entries may surround."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


class ImportedModel:
    """An ONNX file as it was imported; `run` normalises in numpy.

    Args:
        content: the file's bytes.
        spec: how images are normalised.
        conventions: how it takes images and returns scores.

    Raises:
        EngineError: ONNX Runtime cannot open it.
    """

    def __init__(self, content: bytes, spec: InputSpec, conventions: Conventions) -> None:
        self._session = open_session(content, device="cpu", threads=0)
        (given,) = self._session.get_inputs()
        self._input, self._spec, self._conventions = given.name, spec, conventions
        self._dtype = _DTYPES.get(given.type, np.float32)
        declared = given.shape[0] if isinstance(given.shape[0], int) and given.shape[0] > 0 else None
        self._batch = conventions.original_batch or declared

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities and logits, float32 (N, K) each, of uint8 images (N, H, W, C).

        If the file returns probabilities, the logits are computed from them.
        """
        found = self.outputs(images)
        if self._conventions.gives == "logits":
            powers = np.exp(found.astype(np.float64) - found.max(axis=1, keepdims=True))
            return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), found
        if self._conventions.gives == "probabilities":
            return found, _log(found)
        if found.shape[1] == 1:
            found = np.concatenate([1 - found, found], axis=1)
            return found, _log(found) - _log(found[:, :1])
        return found, _log(found) - _log(1 - found)

    def outputs(self, images: Pixels) -> Floats:
        """The file's own output, float32 (N, ...), for uint8 images (N, H, W, C).

        Axes of length 1 behind the batch are left out, except one if there is nothing else. A file with a fixed batch
        runs as often as needed, and the last images repeat to fill it.
        """
        batch = self._batch or len(images)
        filled = np.resize(np.arange(len(images)), -(-len(images) // batch) * batch)
        parts = [self._once(images[filled[start : start + batch]]) for start in range(0, len(filled), batch)]
        if batch == 1:
            parts = [part if part.shape[:1] == (1,) else part[np.newaxis] for part in parts]
        found = np.concatenate(parts)[: len(images)]
        return found.reshape(len(found), *([size for size in found.shape[1:] if size != 1] or [1]))

    def takes_any_batch(self, images: Pixels) -> bool:
        """True if one run gives scores for each of several images, uint8 (N, H, W, C)."""
        try:
            return self._once(images).shape[:1] == (len(images),)
        except Exception:  # onnxruntime's exceptions share no base class
            return False

    def drops_batch(self, image: Pixels) -> bool:
        """True if the output for one image, uint8 (1, H, W, C), has no axis for the batch."""
        return self._batch in (None, 1) and self._once(image).shape[:1] != (1,)

    def _once(self, images: Pixels) -> Floats:
        # The same steps in the same precision as in the wrapped graph: half-precision networks magnify any rounding.
        scale = np.float32(255)
        mean, std = (np.asarray(numbers, np.float64) * scale for numbers in (self._spec.mean, self._spec.std))
        x = (images.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)  # (N, H, W, C)
        if self._conventions.channel_order == "BGR":
            x = x[..., ::-1]
        if self._conventions.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        given = np.ascontiguousarray(x).astype(self._dtype)
        found: Any = self._session.run([self._conventions.output], {self._input: given})[0]
        return np.asarray(found, np.float32)


def _log(probabilities: Floats) -> Floats:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
