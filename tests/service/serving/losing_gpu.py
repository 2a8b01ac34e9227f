"""The service over an engine whose GPU stops working at a white image, or at each if LOSE_ALWAYS is set."""

import os

from export.engines.onnxruntime import OnnxEngine
from export.engines.protocol import DeviceLost

_run = OnnxEngine.run


def _losing(self, images):
    if "LOSE_ALWAYS" in os.environ or (images == 255).all(axis=(1, 2, 3)).any():
        raise DeviceLost("the GPU stopped working: CUDA error 719, unspecified launch failure")
    return _run(self, images)


OnnxEngine.run = _losing

from service.app import Classifier  # noqa: E402, F401  # BentoML looks for it here
