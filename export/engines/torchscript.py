"""TorchScript: `model.ts` on the CPU or a GPU. With `engine_torch`, what imports torch on the serving path."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from export.engines.protocol import EngineError
from export.engines.torch import TorchEngine


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silences what torch.jit announces: that it is deprecated, as the form is still asked for; and which numbers it
    takes for constants, as a file that goes wrong by it fails its comparison.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # not in __all__
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
