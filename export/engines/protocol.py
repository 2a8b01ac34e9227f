"""The interface of engines, which run exported files."""

from collections.abc import Callable
from typing import Literal, Protocol

from models.errors import ConvscopeError
from models.images.decode import Floats, Pixels

Run = Callable[[Pixels], tuple[Floats, Floats]]  # see `Engine.run`


class EngineError(ConvscopeError, RuntimeError):
    """A file that cannot be opened on the requested device; the message names what is missing."""


class DeviceMemoryFull(EngineError):
    """The GPU's memory is full; a smaller batch, or a later one, may fit."""


class DeviceLost(EngineError):
    """The GPU stopped working permanently for this process: a failed CUDA context never recovers."""


class Engine(Protocol):
    """Runs one exported file.

    Attributes:
        name: `onnxruntime`, `openvino`, `openvino-bf16`, `torchscript`, `pt2` or `aoti`.
        file: the artifact's file that it runs.
        device: `cpu` or `cuda`.
    """

    name: str
    file: str
    device: Literal["cpu", "cuda"]

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities and logits, float32 (N, K) each, of uint8 images (N, H, W, C); thread-safe.

        Raises:
            DeviceMemoryFull, DeviceLost: see these classes.
        """
        ...
