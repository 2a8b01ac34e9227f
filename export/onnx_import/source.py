"""Reads third-party ONNX image classifiers, and refuses those that cannot be wrapped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from export.engines.onnxruntime import open_session
from export.engines.protocol import EngineError
from models.errors import UserError

OLDEST_OPSET = 7  # from this version on arithmetic broadcasts, and ONNX Runtime reads the file
_FLOATS = {"tensor(float)": "FLOAT", "tensor(float16)": "FLOAT16"}
_MERGE = "merge them first with onnx.save(onnx.load(FILE), NEW_FILE)"


class OnnxImportError(UserError):
    """An ONNX file that cannot be wrapped; the message gives the file and the reason."""


@dataclass(frozen=True)
class OnnxClassifier:
    """An image classifier as its author wrote it.

    Attributes:
        path: the file.
        content: its bytes.
        model: the same, parsed, with its own functions inlined.
        input: name of the input for the images, (N, C, H, W).
        dtype: of that input, as ONNX names it: `FLOAT` or `FLOAT16`.
        channels, height, width: of that input; None if the file leaves them open.
        output: name of the output to use.
    """

    path: Path
    content: bytes
    model: onnx.ModelProto
    input: str
    dtype: str
    channels: int | None
    height: int | None
    width: int | None
    output: str

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return _opset(self.model)


def read_onnx(path: Path, *, output: str | None = None) -> OnnxClassifier:
    """Reads an ONNX file, and no other file.

    Args:
        path: the file.
        output: the name of the output to use; None for the only one.

    Raises:
        OSError: it cannot be read.
        OnnxImportError: it is not what `OnnxClassifier` describes, or ONNX Runtime cannot open it.
    """
    content = path.read_bytes()
    model = _checked(path, content)
    try:
        session = open_session(content, device="cpu", threads=1)
    except EngineError as error:
        raise OnnxImportError(f"{path}: {_line(error)}") from None
    given = session.get_inputs()  # without those that have an initializer
    if len(given) != 1:
        raise OnnxImportError(f"{path} has {len(given)} inputs ({_described(given)}); wanted one, for the images")
    (image,) = given
    if image.type not in _FLOATS or len(image.shape) != 4:
        raise OnnxImportError(f"{path} takes {_described(given)}; wanted float images [N, C, H, W]")
    channels, height, width = (size if isinstance(size, int) and size > 0 else None for size in image.shape[1:])
    if channels not in (None, 1, 3):
        last = " (channels stand last; convert it to NCHW first)" if width in (1, 3) else ""
        raise OnnxImportError(
            f"{path} takes {_described(given)}{last}; wanted float images [N, C, H, W], C being 1 or 3"
        )
    outputs = [value.name for value in session.get_outputs()]
    if output is None and len(outputs) > 1:
        raise OnnxImportError(f"{path} has {len(outputs)} outputs ({', '.join(outputs)}); name one with --output")
    if output is not None and output not in outputs:
        raise OnnxImportError(f"{path} has no output {output!r}; it has {', '.join(outputs)}")
    dtype = _FLOATS[image.type]
    return OnnxClassifier(path, content, model, image.name, dtype, channels, height, width, output or outputs[0])


def _checked(path: Path, content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own exception, which has no types
        raise OnnxImportError(f"{path} is not an ONNX file: {_line(error)}") from None
    if location := next(_external_data(model), None):
        raise OnnxImportError(f"{path}: weights lie in other files ({location!r} for one); {_MERGE}")
    if not model.graph.node:
        raise OnnxImportError(f"{path} is not an ONNX model: it has no operations")
    if (opset := _opset(model)) < OLDEST_OPSET:
        convert = "convert it first with onnx.version_converter.convert_version"
        raise OnnxImportError(
            f"{path} is of opset {opset}; {OLDEST_OPSET} is the oldest that can be wrapped: {convert}"
        )
    try:
        onnx.checker.check_model(model)
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise OnnxImportError(f"{path} is not a sound ONNX model: {_line(error)}") from None


def _external_data(message: Any) -> Iterator[str]:
    """Locations of tensors outside the file: in the graph, in subgraphs and in attributes."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield next((entry.value for entry in message.external_data if entry.key == "location"), "")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _external_data(part)


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
