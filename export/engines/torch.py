"""Engines that run on torch: device placement, and conversion of arrays."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from export.engines.cuda import Device
from export.engines.cuda_runner import CudaRunner
from export.engines.protocol import EngineError
from models.images.decode import Floats, Pixels


class TorchEngine:
    """Runs a module that maps uint8 images (N, H, W, C) to probabilities and logits; see `Engine`."""

    name: str

    def __init__(self, path: Path, content: bytes | None = None, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device is cuda, but this build of torch finds no GPU it can use")
        self.file = path.name
        self.device: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if threads:
            torch.set_num_threads(threads)  # torch has one pool for the whole process
        if self.device == "cuda":
            forbid_tf32()
        try:
            self._module = self._load(path if content is None else io.BytesIO(content))
        except Exception as error:  # from zip, JSON, pickle, the linker or torch, depending on the damage
            raise EngineError(f"torch cannot open {path}: {(str(error) or repr(error)).splitlines()[0]}") from None
        self._on_cuda = CudaRunner(self._module, device=torch.device("cuda")) if self.device == "cuda" else None

    def _load(self, source: Any) -> Callable[[torch.Tensor], Any]:
        """Loads the module from a file or its bytes, onto `device`."""
        raise NotImplementedError

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        if self._on_cuda is not None:
            return self._on_cuda(images)
        # from_numpy warns about read-only arrays, which decoded images can be.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            probabilities, logits = self._module(batch)
        return probabilities.numpy(), logits.numpy()


def forbid_tf32() -> None:
    """Turns TF32 off in this process: by default torch lets cuDNN round convolutions to TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


class AotiEngine(TorchEngine):
    """Runs `model.aoti.pt2`, whose hash has been checked, on the kind of machine that compiled it."""

    name = "aoti"

    def __init__(self, path: Path, content: bytes | None = None, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda":
            raise EngineError(f"{path} was compiled for the CPU")
        super().__init__(path, device="cpu", threads=threads)  # the linker needs a file

    def _load(self, source: Any) -> Callable[[torch.Tensor], Any]:
        package: Callable[[torch.Tensor], Any] = torch._inductor.aoti_load_package(str(source))
        return package


class Pt2Engine(TorchEngine):
    """Runs `model.pt2`, whose hash has been checked."""

    name = "pt2"

    def _load(self, source: Any) -> Callable[[torch.Tensor], Any]:
        with warnings.catch_warnings():  # torch 2.11 warns about its own buffer
            warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
            return torch.export.load(source).module().to(self.device)


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silences warnings of torch.jit: its deprecation, as the format is still in use; and values traced as
    constants, as a file made wrong by them fails its comparison.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in __all__
        yield


class TorchScriptEngine(TorchEngine):
    """Serves `model.ts`."""

    name = "torchscript"

    def _load(self, source: Any) -> Callable[[torch.Tensor], Any]:
        with quiet_torchscript():
            module: Callable[[torch.Tensor], Any] = torch.jit.load(source, map_location=self.device)  # type: ignore[no-untyped-call]
            return module
