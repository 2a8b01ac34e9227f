"""The work every peer does per request, so that only the servers differ: decode, resize, run, top five classes."""

import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

Pixels = npt.NDArray[np.uint8]


class Model:
    """`model.onnx` of an artifact, named by the environment variable MODEL; THREADS is of one run."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("THREADS", "1"))
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self._height, self._width, self._channels = self._session.get_inputs()[0].shape[1:]

    def decode(self, data: bytes) -> Pixels:
        """uint8 (H, W, C) of a file."""
        return self.fit(Image.open(io.BytesIO(data)))

    def fit(self, image: Image.Image) -> Pixels:
        """The same of an opened one."""
        image = image.convert("L" if self._channels == 1 else "RGB")
        pixels = np.asarray(image.resize((self._width, self._height), Image.Resampling.BILINEAR))
        return pixels.reshape(self._height, self._width, self._channels)

    def run(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Probabilities (N, K)."""
        (probabilities,) = self._session.run(["probabilities"], {"image": images})
        return probabilities  # type: ignore[no-any-return]


def best(probabilities: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """The five most probable of (K,)."""
    order = np.argsort(-probabilities)[:5]
    return [{"index": int(index), "probability": float(probabilities[index])} for index in order]
