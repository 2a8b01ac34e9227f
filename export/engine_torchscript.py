"""TorchScript: `model.ts` on the CPU or a GPU. The only module of the serving path that imports torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from export.cuda import Device
from export.engine import EngineError, Floats
from models.inputs import Pixels


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silences torch.jit's announcement that it is deprecated: the form is still asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        yield


class TorchScriptEngine:
    """Serves `model.ts`."""

    name = "torchscript"

    def __init__(self, path: Path, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device is cuda, but this build of torch finds no GPU it can use")
        self.file = path.name
        self.device: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if threads:
            torch.set_num_threads(threads)  # torch has one pool for the whole process
        try:
            with quiet_torchscript():
                self._module = torch.jit.load(str(path), map_location=self.device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise EngineError(f"torch cannot open {path}: {str(error).splitlines()[0]}") from None

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        # from_numpy warns about arrays that cannot be written to; as_tensor of a decoded image would be one.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            probabilities, logits = self._module(batch.to(self.device))
        return probabilities.cpu().numpy(), logits.cpu().numpy()
