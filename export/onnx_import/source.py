"""Reads third-party ONNX image classifiers, and refuses those that cannot be wrapped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from export.engines.onnxruntime import open_session
from export.engines.original import Layout
from export.engines.protocol import EngineError
from export.onnx_import.external_data import ExternalDataError, merge_external_data
from models.errors import UserError

OLDEST_OPSET = 7  # from this version on arithmetic broadcasts, and ONNX Runtime reads the file
_DTYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "FLOAT16", "tensor(double)": "DOUBLE", "tensor(uint8)": "UINT8"}
_WANTED = "float or uint8 images [N, C, H, W] or [N, H, W, C]"


class OnnxImportError(UserError):
    """An ONNX file that cannot be wrapped; the message gives the file and the reason."""


@dataclass(frozen=True)
class OnnxClassifier:
    """An image classifier as its author wrote it.

    Attributes:
        path: the file.
        content: its bytes, with weights from other files merged.
        model: the same, parsed, with its own functions inlined.
        input: name of the input for the images.
        dtype: of that input, as ONNX names it: `FLOAT`, `FLOAT16`, `DOUBLE` or `UINT8`.
        layout: order of its axes.
        batch: number of images it is declared for; None for any number.
        channels, height, width: of that input; None if the file leaves them open.
        output: name of the output to use.
        weight_files: names of other files that held weights.
    """

    path: Path
    content: bytes
    model: onnx.ModelProto
    input: str
    dtype: str
    layout: Layout
    batch: int | None
    channels: int | None
    height: int | None
    width: int | None
    output: str
    weight_files: tuple[str, ...] = ()

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return _opset(self.model)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own metadata."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read_onnx(path: Path, *, output: str | None = None, layout: Layout | None = None) -> OnnxClassifier:
    """Reads an ONNX file, and files with its weights in the same folder.

    Args:
        path: the file.
        output: the name of the output to use; None for the only one.
        layout: order of the axes of its images; None to find it by the number of channels.

    Raises:
        OSError: it cannot be read.
        OnnxImportError: it is not what `OnnxClassifier` describes, or ONNX Runtime cannot open it.
    """
    content, model, weight_files = _read(path)
    try:
        session = open_session(content, device="cpu", threads=1)
    except EngineError as error:
        raise OnnxImportError(f"{path}: {_line(error)}") from None
    given = session.get_inputs()  # without those that have an initializer
    if len(given) != 1:
        raise OnnxImportError(f"{path} has {len(given)} inputs ({_described(given)}); wanted one, for the images")
    (image,) = given
    if image.type not in _DTYPES or len(image.shape) != 4:
        raise OnnxImportError(f"{path} takes {_described(given)}; wanted {_WANTED}")
    batch, *sizes = (size if isinstance(size, int) and size > 0 else None for size in image.shape)
    chosen: Layout = layout or ("NHWC" if sizes[0] not in (1, 3) and sizes[2] in (1, 3) else "NCHW")
    channels, height, width = sizes if chosen == "NCHW" else (sizes[2], sizes[0], sizes[1])
    if channels not in (None, 1, 3):
        raise OnnxImportError(f"{path} takes {_described(given)}; wanted {_WANTED}, C being 1 or 3")
    outputs = [value.name for value in session.get_outputs()]
    if output is None and len(outputs) > 1:
        raise OnnxImportError(f"{path} has {len(outputs)} outputs ({', '.join(outputs)}); name one with --output")
    if output is not None and output not in outputs:
        raise OnnxImportError(f"{path} has no output {output!r}; it has {', '.join(outputs)}")
    return OnnxClassifier(
        path=path,
        content=content,
        model=model,
        input=image.name,
        dtype=_DTYPES[image.type],
        layout=chosen,
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        output=output or outputs[0],
        weight_files=weight_files,
    )


def _read(path: Path) -> tuple[bytes, onnx.ModelProto, tuple[str, ...]]:
    """The file with all weights, as bytes and parsed, and the names of other files that held weights."""
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own exception, which has no types
        raise OnnxImportError(f"{path} is not an ONNX file: {_line(error)}") from None
    try:
        weight_files = merge_external_data(model, path)
        content = model.SerializeToString() if weight_files else content
    except ExternalDataError as error:
        raise OnnxImportError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # protobuf's own exception, which has no types
        raise OnnxImportError(f"{path} with its weights is too large for one ONNX file: {_line(error)}") from None
    if not model.graph.node:
        raise OnnxImportError(f"{path} is not an ONNX model: it has no operations")
    if (opset := _opset(model)) < OLDEST_OPSET:
        convert = "convert it first with onnx.version_converter.convert_version"
        raise OnnxImportError(
            f"{path} is of opset {opset}; {OLDEST_OPSET} is the oldest that can be wrapped: {convert}"
        )
    try:
        onnx.checker.check_model(model)
        inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise OnnxImportError(f"{path} is not a sound ONNX model: {_line(error)}") from None
    return content, inlined, weight_files


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _described(values: Any) -> str:
    return ", ".join(
        f"{value.name} {value.type.removeprefix('tensor(').removesuffix(')')} "
        f"[{', '.join('?' if size is None else str(size) for size in value.shape)}]"
        for value in values
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
