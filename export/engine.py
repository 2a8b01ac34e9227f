"""What an engine is, and which one a request for `auto` means."""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from export.artifact import ONNX_FILE, TORCHSCRIPT_FILE, Manifest
from export.cuda import Device, why_no_cuda
from models.inputs import Pixels

Floats = npt.NDArray[np.float32]
EngineName = Literal["auto", "onnxruntime", "torchscript"]


class EngineError(RuntimeError):
    """A file that cannot be opened on the wanted device; the message names what is missing."""


class Engine(Protocol):
    """Runs one exported file.

    Attributes:
        name: `onnxruntime` or `torchscript`.
        file: the artifact's file that runs.
        device: where: `cpu` or `cuda`.
    """

    name: str
    file: str
    device: Literal["cpu", "cuda"]

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities and logits, float32 (N, K) each, of uint8 images (N, H, W, C)."""
        ...


def open_engine(
    directory: Path, manifest: Manifest, *, engine: EngineName = "auto", device: Device = "auto", threads: int = 0
) -> Engine:
    """Opens an artifact's file for inference. Hashes are the caller's to check first.

    Args:
        directory: the artifact.
        manifest: its manifest.
        engine: `auto` takes ONNX Runtime where there is an ONNX file.
        device: `auto` takes CUDA when it works; `cuda` fails where it does not.
        threads: of one run; 0 leaves it to the engine.

    Raises:
        EngineError: the file is not in the artifact, does not open, or the device is not there.
    """
    chosen = engine if engine != "auto" else "onnxruntime" if ONNX_FILE in manifest.files else "torchscript"
    file = ONNX_FILE if chosen == "onnxruntime" else TORCHSCRIPT_FILE
    if file not in manifest.files:
        raise EngineError(f"{directory} has no {file} for the engine {chosen}; it has {', '.join(manifest.files)}")
    if device == "cuda" and (reason := why_no_cuda()):
        raise EngineError(f"device is cuda, but there is {reason}")
    if chosen == "onnxruntime":
        from export.engine_onnx import OnnxEngine

        return OnnxEngine(directory / file, device=device, threads=threads)
    try:
        from export.engine_torchscript import TorchScriptEngine  # needs torch, which takes seconds to import
    except ModuleNotFoundError as error:
        raise EngineError(f"the engine torchscript needs the package {error.name}, which is not installed") from None

    return TorchScriptEngine(directory / file, device=device, threads=threads)


def check_output(probabilities: Floats, logits: Floats, images: Pixels) -> None:
    """Raises EngineError if an engine did not return one finite row per image."""
    if probabilities.shape != logits.shape or len(probabilities) != len(images):
        raise EngineError(f"{len(images)} images gave outputs {probabilities.shape} and {logits.shape}")
    if not np.isfinite(logits).all():
        raise EngineError("the network's output is not finite")
