"""ONNX Runtime: the serving session, and the one that shows intermediate values."""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from export.engines.cuda import Device, cuda_unavailable_reason, explain
from export.engines.protocol import EngineError
from models.images.decode import Floats, Pixels

_FATAL_ONLY = 4  # otherwise a failing CUDA provider prints its reason, which is in the exception or queried below


def cuda_provider_unavailable_reason() -> str | None:
    """None if this build of ONNX Runtime can use a GPU; otherwise a description of what is missing."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    return "no CUDA provider in this build of ONNX Runtime (the package onnxruntime-gpu has one)"


def open_session(content: bytes, *, device: Device, threads: int) -> onnxruntime.InferenceSession:
    """Opens a session on the bytes of an ONNX file, which therefore cannot refer to other files.

    Raises:
        EngineError: not a runnable ONNX model, or CUDA was requested and its provider does not load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop needs the core
    # External weights would be read from the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    reason = None if device == "cpu" else cuda_unavailable_reason() or cuda_provider_unavailable_reason()
    if device == "cuda" and reason:
        raise EngineError(f"device is cuda, but there is {reason}")
    try:
        if device != "cpu" and reason is None:
            onnxruntime.preload_dlls()
            cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 rounds to 10 bits; parity is checked in fp32
            session = onnxruntime.InferenceSession(content, options, providers=[cuda, "CPUExecutionProvider"])
            if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
                raise EngineError("device is cuda, but ONNX Runtime's CUDA provider does not load; see its libraries")
            return session
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except EngineError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"ONNX Runtime cannot open the model: {error}") from None


class OnnxEngine:
    """Serves `model.onnx`."""

    name = "onnxruntime"

    def __init__(self, path: Path, content: bytes | None = None, *, device: Device = "auto", threads: int = 0) -> None:
        self.file = path.name
        content = path.read_bytes() if content is None else content
        self._session = open_session(content, device=device, threads=threads)
        on_cuda = "CUDAExecutionProvider" in self._session.get_providers()
        self.device: Literal["cpu", "cuda"] = "cuda" if on_cuda else "cpu"

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        try:
            probabilities, logits = self._session.run(["probabilities", "logits"], {"image": images})
        except Exception as error:  # onnxruntime's exceptions share no base class
            if self.device == "cpu" or (ours := explain(error)) is error:
                raise
            raise ours from None
        return probabilities, logits


class OnnxFeatureExtractor:
    """Returns values inside `model.onnx`: the same graph with them added as outputs, opened on first use.

    Extra outputs prevent fusions, so this session is separate from the serving one. It may also use another device:
    `auto` takes the CPU if this build of ONNX Runtime has no CUDA provider.
    """

    def __init__(
        self, path: Path, values: Sequence[str], *, sha256: str = "", device: Device = "cpu", threads: int = 0
    ) -> None:
        self.file = path.name
        self._sha256 = sha256
        self._path, self._values, self._device, self._threads = path, list(values), device, threads
        self._session: onnxruntime.InferenceSession | None = None
        self._opening = threading.Lock()

    def run(self, images: Pixels, values: Sequence[str]) -> tuple[Floats, list[Floats]]:
        """Probabilities (N, K) and the values named `values`, (N, ...) each.

        Raises:
            EngineError: the graph has no such value.
        """
        with self._opening:
            self._session = self._session or self._open()
        probabilities, *found = self._session.run(["probabilities", *values], {"image": images})
        return probabilities, found

    def _open(self) -> onnxruntime.InferenceSession:
        import onnx  # only inspection needs it

        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self._path} cannot be read: {error.strerror}") from None
        if self._sha256 and hashlib.sha256(content).hexdigest() != self._sha256:
            raise EngineError(f"{self._path} was changed since it was loaded for serving")
        model = onnx.load_model_from_string(content)
        known: dict[str, Any] = {name: None for node in model.graph.node for name in node.output}
        if missing := [value for value in self._values if value not in known]:
            raise EngineError(f"{self._path.name} has no inner value {missing[0]!r}")
        model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in self._values)
        return open_session(model.SerializeToString(), device=self._device, threads=self._threads)
