"""The imported classifier itself, run as its author intended: the reference for its wrapped form."""

from typing import Any

import numpy as np

from export.engines.onnxruntime import open_session
from models.images.decode import Floats, Pixels
from models.images.input_spec import InputSpec

MODEL = "onnx"  # `Manifest.model` of artifacts made from an imported file; no network is registered under this name


class ImportedModel:
    """An ONNX file that takes float NCHW images; `run` normalises in numpy.

    Args:
        content: the file's bytes.
        spec: how images are normalised.
        output: the name of the output to use.
        output_kind: `logits` or `probabilities`.

    Raises:
        EngineError: ONNX Runtime cannot open it.
    """

    def __init__(self, content: bytes, spec: InputSpec, *, output: str, output_kind: str) -> None:
        self._session = open_session(content, device="cpu", threads=0)
        (given,) = self._session.get_inputs()
        self._input, self._spec, self._output, self._output_kind = given.name, spec, output, output_kind
        self._dtype = np.float16 if given.type == "tensor(float16)" else np.float32
        self._batch = given.shape[0] if isinstance(given.shape[0], int) and given.shape[0] > 0 else None

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities and logits, float32 (N, K) each, of uint8 images (N, H, W, C).

        If the file returns probabilities, their logarithms are the logits.
        """
        found = self.outputs(images)
        if self._output_kind == "probabilities":
            return found, np.log(np.maximum(found, np.finfo(np.float32).tiny))
        powers = np.exp(found.astype(np.float64) - found.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), found

    def outputs(self, images: Pixels) -> Floats:
        """The file's own output, float32, for uint8 images (N, H, W, C). A file with a fixed batch runs as often as
        needed, and the last images repeat to fill it."""
        batch = self._batch or len(images)
        filled = np.resize(np.arange(len(images)), -(-len(images) // batch) * batch)
        parts = [self._once(images[filled[start : start + batch]]) for start in range(0, len(filled), batch)]
        return np.concatenate(parts)[: len(images)]

    def _once(self, images: Pixels) -> Floats:
        # The same steps in the same precision as in the wrapped graph: half-precision networks magnify any rounding.
        scale = np.float32(255)
        mean, std = (np.asarray(numbers, np.float64) * scale for numbers in (self._spec.mean, self._spec.std))
        floats = (images.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)  # (N, H, W, C)
        x = np.ascontiguousarray(floats.transpose(0, 3, 1, 2)).astype(self._dtype)  # (N, C, H, W)
        found: Any = self._session.run([self._output], {self._input: x})[0]
        return np.asarray(found, np.float32)
