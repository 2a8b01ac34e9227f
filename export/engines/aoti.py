"""AOTInductor: `model.aoti.pt2` on the CPU, for verification and measurement. The server never opens one: it is machine
code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from export.engines.cuda import Device
from export.engines.protocol import EngineError
from export.engines.torch import TorchEngine


class AotiEngine(TorchEngine):
    """Runs `model.aoti.pt2`, whose hash has been checked, on the kind of machine that compiled it."""

    name = "aoti"

    def __init__(self, path: Path, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda":
            raise EngineError(f"{path} was compiled for the CPU")
        super().__init__(path, device="cpu", threads=threads)

    def _load(self, path: Path) -> Callable[[torch.Tensor], Any]:
        try:
            package: Callable[[torch.Tensor], Any] = torch._inductor.aoti_load_package(str(path))
            return package
        except Exception as error:  # of zip, JSON, the linker or torch, as the damage has it
            raise EngineError(f"torch cannot open {path}: {(str(error) or repr(error)).splitlines()[0]}") from None
