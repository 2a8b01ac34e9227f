"""What the engines on torch share: where they run, and how arrays go in and out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from export.engines.cuda import Device
from export.engines.cuda_runner import CudaRunner
from export.engines.protocol import EngineError, Floats
from models.images.decode import Pixels


class TorchEngine:
    """Runs a module that maps uint8 images (N, H, W, C) to probabilities and logits; see `Engine`."""

    name: str

    def __init__(self, path: Path, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device is cuda, but this build of torch finds no GPU it can use")
        self.file = path.name
        self.device: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if threads:
            torch.set_num_threads(threads)  # torch has one pool for the whole process
        if self.device == "cuda":
            forbid_tf32()
        self._module = self._load(path)
        self._on_cuda = CudaRunner(self._module, device=torch.device("cuda")) if self.device == "cuda" else None

    def _load(self, path: Path) -> Callable[[torch.Tensor], Any]:
        """The module of a file, on `device`.

        Raises:
            EngineError: torch cannot open it.
        """
        raise NotImplementedError

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        if self._on_cuda is not None:
            return self._on_cuda(images)
        # from_numpy warns about arrays that cannot be written to; as_tensor of a decoded image would be one.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            probabilities, logits = self._module(batch)
        return probabilities.numpy(), logits.numpy()


def forbid_tf32() -> None:
    """Makes fp32 mean fp32 in this process: torch lets cuDNN round convolutions to TF32's 10 bits by default."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
