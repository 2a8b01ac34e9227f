"""torch.export: `model.pt2` on the CPU or a GPU, for verification. The server never opens one: loading unpickles."""

from pathlib import Path
from typing import Literal

import torch

from export.cuda import Device
from export.engine import EngineError, Floats
from models.inputs import Pixels


class Pt2Engine:
    """Runs `model.pt2`, whose hash has been checked."""

    name = "pt2"

    def __init__(self, path: Path, *, device: Device = "auto", threads: int = 0) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device is cuda, but this build of torch finds no GPU it can use")
        self.file = path.name
        self.device: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if threads:
            torch.set_num_threads(threads)
        try:
            self._module = torch.export.load(path).module().to(self.device)
        except Exception as error:  # of zip, JSON, pickle or torch, as the damage has it
            raise EngineError(f"torch cannot open {path}: {(str(error) or repr(error)).splitlines()[0]}") from None

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode():
            probabilities, logits = self._module(batch.to(self.device))
        return probabilities.cpu().numpy(), logits.cpu().numpy()
