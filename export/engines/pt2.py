"""torch.export: `model.pt2` on the CPU or a GPU, for verification. The server never opens one: loading unpickles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from export.engines.protocol import EngineError
from export.engines.torch import TorchEngine


class Pt2Engine(TorchEngine):
    """Runs `model.pt2`, whose hash has been checked."""

    name = "pt2"

    def _load(self, path: Path) -> Callable[[torch.Tensor], Any]:
        try:
            return torch.export.load(path).module().to(self.device)
        except Exception as error:  # of zip, JSON, pickle or torch, as the damage has it
            raise EngineError(f"torch cannot open {path}: {(str(error) or repr(error)).splitlines()[0]}") from None
