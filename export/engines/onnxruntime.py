"""ONNX Runtime: the serving session, and the one that shows intermediate values."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from export.engines.cuda import Device, cuda_unavailable_reason, explain
from export.engines.onnx_graph import IMAGE, OnnxGraph
from export.engines.onnx_tail import Tail, write_tail
from export.engines.protocol import EngineError
from models.cores import restricted_cores
from models.graph.node import Node
from models.images.decode import Floats, Pixels

_TAILS = 3  # sessions that are kept open, each with weights of its own
_FATAL_ONLY = 4  # otherwise a failing CUDA provider prints its reason, which is in the exception or queried below


def cuda_provider_unavailable_reason() -> str | None:
    """None if this build of ONNX Runtime can use a GPU; otherwise why not, as a clause."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    return "there is no CUDA provider in this build of ONNX Runtime (the package onnxruntime-gpu has one)"


def open_session(content: bytes, *, device: Device, threads: int) -> onnxruntime.InferenceSession:
    """Opens a session on the bytes of an ONNX file, which therefore cannot refer to other files.

    Raises:
        EngineError: not a runnable ONNX model, or CUDA was requested and its provider does not load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or restricted_cores()  # ONNX Runtime's own choice ignores restrictions
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop needs the core
    # External weights would be read from the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    reason = None if device == "cpu" else cuda_unavailable_reason() or cuda_provider_unavailable_reason()
    if device == "cuda" and reason:
        raise EngineError(f"device is cuda, but {reason}")
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


def takes_one_image(session: onnxruntime.InferenceSession) -> bool:
    """True for a file whose batch is fixed to one image."""
    return bool(session.get_inputs()[0].shape[0] == 1)


def run_session(session: onnxruntime.InferenceSession, outputs: Sequence[str], images: Pixels) -> list[Any]:
    """The named values for images (N, H, W, C); a file that takes one image only runs once for each."""
    if len(images) == 1 or not takes_one_image(session):
        return list(session.run(outputs, {IMAGE: images}))
    rows = zip(*(session.run(outputs, {IMAGE: images[i : i + 1]}) for i in range(len(images))), strict=True)
    return [np.concatenate(row) if np.ndim(row[0]) else row[0] for row in rows]


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
            probabilities, logits = run_session(self._session, ["probabilities", "logits"], images)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if self.device == "cpu" or (ours := explain(error)) is error:
                raise
            raise ours from None
        return probabilities, logits


class OnnxFeatureExtractor:
    """Returns values inside `model.onnx`: the same graph with all of them as outputs, opened on first use.

    Extra outputs prevent fusions, so this session is separate from the serving one. It may also use another device:
    `auto` takes the CPU if this build of ONNX Runtime has no CUDA provider.

    Args:
        path: the file.
        nodes: rows of the node table.
        sha256: of the file, which may have changed since it was loaded for serving; not compared if empty.
        device, threads: see `open_session`.
    """

    def __init__(
        self, path: Path, nodes: Sequence[Node], *, sha256: str = "", device: Device = "cpu", threads: int = 0
    ) -> None:
        self.file = path.name
        self._sha256 = sha256
        self._path, self._nodes, self._device, self._threads = path, nodes, device, threads
        self._opened: tuple[OnnxGraph, onnxruntime.InferenceSession] | None = None
        self._opening = threading.Lock()
        self._tails: OrderedDict[str, tuple[onnxruntime.InferenceSession, tuple[str, ...]]] = OrderedDict()

    @property
    def graph(self) -> OnnxGraph:
        """The file's operations and weights."""
        return self._open()[0]

    def run(self, images: Pixels, values: Sequence[str]) -> tuple[Floats, list[Floats]]:
        """Probabilities (N, K) and the values named `values` in the file, (N, ...) each.

        Raises:
            EngineError: the file was changed, or lacks a value of the node table.
        """
        probabilities, *found = run_session(self._open()[1], ["probabilities", *values], images)
        return probabilities, found

    def tail(self, image: Pixels, value: str) -> Tail:
        """The part of the network from a value on, with everything else as it is for one image.

        Args:
            image: uint8 (1, H, W, C).
            value: its name in the file.

        Raises:
            ValueError: the logits do not depend on the value.
        """
        graph = self.graph
        value = graph.passed_on(value)
        with self._opening:
            kept = self._tails.pop(value) if value in self._tails else None
            session, others = kept or self._open_tail(graph, image, value)
            self._tails[value] = session, others
            if len(self._tails) > _TAILS:
                self._tails.popitem(last=False)
        arrays = self._arrays(image, (value, *others))
        return Tail(session, value, arrays, single=takes_one_image(self._open()[1]))

    def _open_tail(
        self, graph: OnnxGraph, image: Pixels, value: str
    ) -> tuple[onnxruntime.InferenceSession, tuple[str, ...]]:
        content, others = write_tail(graph, value, lambda names: self._arrays(image, names))
        return open_session(content, device=self._device, threads=self._threads), others

    def _arrays(self, image: Pixels, names: Sequence[str]) -> dict[str, Any]:
        """Values by name; `image` is one too."""
        assert self._opened is not None, "tail opens the graph first"
        wanted = [name for name in names if name != IMAGE]
        found = self._opened[1].run(wanted, {IMAGE: image}) if wanted else []
        return {IMAGE: image, **dict(zip(wanted, found, strict=True))}

    def _open(self) -> tuple[OnnxGraph, onnxruntime.InferenceSession]:
        with self._opening:
            self._opened = self._opened or self._read()
            return self._opened

    def _read(self) -> tuple[OnnxGraph, onnxruntime.InferenceSession]:
        import onnx  # only inspection needs it

        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self._path} cannot be read: {error.strerror}") from None
        if self._sha256 and hashlib.sha256(content).hexdigest() != self._sha256:
            raise EngineError(f"{self._path} was changed since it was loaded for serving")
        model = onnx.load_model_from_string(content)
        graph = OnnxGraph(model, self._nodes)
        if missing := [node.value for node in self._nodes if node.value and node.value not in graph.producers]:
            raise EngineError(f"{self._path.name} has no inner value {missing[0]!r}")
        outputs = {output.name for output in model.graph.output}
        inner = [name for name, made in graph.producers.items() if made.op != "Constant" and name not in outputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in inner)
        session = open_session(model.SerializeToString(), device=self._device, threads=self._threads)
        return graph, session
