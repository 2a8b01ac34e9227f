"""Runs `model.onnx` with OpenVINO on the CPU, in fp32 or, where the processor has the instructions, in bf16."""

import importlib.util
import queue
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.artifact.formats import Precision
from export.engines.cuda import Device
from export.engines.protocol import EngineError
from models.cores import restricted_cores
from models.images.decode import Floats, Pixels

# OpenVINO's own default is the lowest precision that the processor computes faster.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def openvino_unavailable_reason(precision: Precision = "fp32") -> str | None:
    """None if OpenVINO is installed and computes in that precision here; otherwise why not, as a clause."""
    if importlib.util.find_spec("openvino") is None:
        return 'the package openvino is not installed; pip install -e ".[openvino]"'
    return "this processor has no instructions for bf16" if precision == "bf16" and not runs_bf16() else None


@cache
def runs_bf16() -> bool:
    """True if this processor has instructions for bf16; asks OpenVINO, which is installed."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """Serves `model.onnx` or `model.int8.onnx`.

    Args:
        path, content: the file, and its bytes if they have already been read.
        precision: of the computation; bf16 rounds weights and activations of convolutions and matrix products.
        device: only the CPU.
        threads: per run; 0 leaves the choice to OpenVINO, within the cores of this process.

    Raises:
        EngineError: it does not open, OpenVINO is not installed, or the processor has no bf16.
    """

    device: Literal["cpu", "cuda"] = "cpu"

    def __init__(
        self,
        path: Path,
        content: bytes | None = None,
        *,
        precision: Precision = "fp32",
        device: Device = "auto",
        threads: int = 0,
    ) -> None:
        if device == "cuda":
            raise EngineError("device is cuda, but OpenVINO is used on the CPU only")
        if reason := openvino_unavailable_reason(precision):
            raise EngineError(f"the engine openvino cannot be used in {precision}: {reason}")
        import openvino

        self.file, self.name = path.name, "openvino-bf16" if precision == "bf16" else "openvino"
        core, data = openvino.Core(), path.read_bytes() if content is None else content
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": False,  # workers of a server would be pinned to the same cores
        }
        if count := threads or restricted_cores():
            settings["INFERENCE_NUM_THREADS"] = count
        try:
            model = core.read_model(data, b"")
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise EngineError(f"OpenVINO cannot open {path}: {(str(error) or repr(error)).splitlines()[0]}") from None
        batch = self._compiled.input(0).partial_shape[0]
        self._takes_one = batch.is_static and batch.get_length() == 1
        self._outputs = [self._compiled.output(name) for name in ("probabilities", "logits")]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # requests: each runs one batch at a time

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        if self._takes_one and len(images) > 1:
            rows = [self.run(images[index : index + 1]) for index in range(len(images))]
            return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            probabilities, logits = (np.array(found[output]) for output in self._outputs)
        finally:
            self._idle.put(request)
        return probabilities, logits
