"""TorchScript: `model.ts` on the CPU or a GPU. With `engine_torch`, what imports torch on the serving path."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from export.engine import EngineError
from export.engine_torch import TorchEngine


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silences torch.jit's announcement that it is deprecated: the form is still asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        yield


class TorchScriptEngine(TorchEngine):
    """Serves `model.ts`."""

    name = "torchscript"

    def _load(self, path: Path) -> Callable[[torch.Tensor], Any]:
        try:
            with quiet_torchscript():
                module: Callable[[torch.Tensor], Any] = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=self.device
                )
                return module
        except RuntimeError as error:
            raise EngineError(f"torch cannot open {path}: {str(error).splitlines()[0]}") from None
