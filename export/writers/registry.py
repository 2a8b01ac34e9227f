"""Writers of graph files by name; a new format is a row here and one in `export.artifact.formats`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from export.artifact import manifest as artifact
from export.artifact.identity import FileIdentity
from export.writers.aoti import write_aoti
from export.writers.onnx import write_onnx
from export.writers.onnx_fp16 import write_fp16
from export.writers.onnx_int8 import write_int8
from export.writers.pt2 import write_pt2
from export.writers.torchscript import write_torchscript
from export.writers.torchscript_half import HalfPrecision
from models.checkpoint.directory import Checkpoint
from models.graph.node import Node
from models.images.decode import Pixels


@dataclass(frozen=True, kw_only=True)
class WriteRequest:
    """The inputs available to writers.

    Attributes:
        checkpoint: the trained network.
        nodes: its node table.
        example: real images, uint8 (2, H, W, C), to trace with.
        calibration: training images, uint8 (N, H, W, C), for the ranges of int8; None without a data set.
        identity: the artifact's identity, written into the file.
        folder: the artifact's folder; files of lower precision are made from its `model.onnx`.
    """

    checkpoint: Checkpoint
    nodes: tuple[Node, ...]
    example: Pixels
    calibration: Pixels | None
    identity: FileIdentity
    folder: Path


Writer = Callable[[WriteRequest, Path], tuple[Node, ...]]  # the node table, with value names if the file has them


def _onnx(request: WriteRequest, path: Path) -> tuple[Node, ...]:
    return write_onnx(request.checkpoint, request.nodes, path, identity=request.identity)


def _fp16(request: WriteRequest, path: Path) -> tuple[Node, ...]:
    write_fp16(request.folder / artifact.ONNX_FILE, path)
    return request.nodes


def _int8(request: WriteRequest, path: Path) -> tuple[Node, ...]:
    assert request.calibration is not None, "choose_formats refuses"
    write_int8(request.folder / artifact.ONNX_FILE, request.calibration, path)
    return request.nodes


def _torchscript(request: WriteRequest, path: Path, *, precision: Literal["fp32"] | HalfPrecision) -> tuple[Node, ...]:
    write_torchscript(request.checkpoint, request.example, path, precision=precision, identity=request.identity)
    return request.nodes


def _pt2(request: WriteRequest, path: Path) -> tuple[Node, ...]:
    write_pt2(request.checkpoint, request.example, path, identity=request.identity)
    return request.nodes


def _aoti(request: WriteRequest, path: Path) -> tuple[Node, ...]:
    write_aoti(request.checkpoint, request.example, path, identity=request.identity)
    return request.nodes


WRITERS: dict[str, Writer] = {
    artifact.ONNX_FILE: _onnx,
    artifact.FP16_FILE: _fp16,
    artifact.INT8_FILE: _int8,
    artifact.TORCHSCRIPT_FILE: partial(_torchscript, precision="fp32"),
    artifact.TORCHSCRIPT_FP16_FILE: partial(_torchscript, precision="fp16"),
    artifact.TORCHSCRIPT_BF16_FILE: partial(_torchscript, precision="bf16"),
    artifact.PT2_FILE: _pt2,
    artifact.AOTI_FILE: _aoti,
}
