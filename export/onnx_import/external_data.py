"""Weights that an ONNX file keeps in files beside it, as PyTorch's exporter does by default."""

import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import onnx

from models.errors import UserError

LIMIT_BYTES = 2**31 - 1  # of a message, by protobuf
_MERGE = "merge them first with onnx.save(onnx.load(FILE), NEW_FILE)"


class ExternalDataError(UserError):
    """Weights in another file that cannot be read; the message gives the file and the reason."""


def merge_external_data(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Moves weights in other files into the model, and returns the names of these files.

    Only files in the model's folder are read; where the model is a link, also those in the folder of its target, which
    is how Hugging Face's cache stores both.

    Args:
        model: parsed from `path`; changed.
        path: of the model.

    Raises:
        ExternalDataError: a location leaves the folder, a file is missing or too short, or all weights exceed 2 GiB.
    """
    tensors = list(_external(model))
    total = 0
    sources: dict[str, Path] = {}
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sources:
            sources[location] = _beside(path, location)
        offset, length = _range(tensor, entries, sources[location])
        total += length
        if total > LIMIT_BYTES:
            raise ExternalDataError(f"weights in other files ({location!r}) exceed 2 GiB, the limit of one ONNX file")
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = _range(tensor, entries, sources[entries.get("location", "")])
        with sources[entries.get("location", "")].open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    return tuple(sources)


def _external(message: Any) -> Iterator[onnx.TensorProto]:
    """Tensors outside the file: in the graph, in subgraphs and in attributes."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _external(part)


def _beside(path: Path, location: str) -> Path:
    """The file at a location, which only names files in the model's folder."""
    parts = PurePosixPath(location.replace("\\", "/"))
    if not location or "\0" in location or parts.is_absolute() or ".." in parts.parts or ":" in location:
        raise ExternalDataError(f"weights lie in {location!r}; only files beside the model are read; {_MERGE}")
    found = path.parent.joinpath(*parts.parts)
    try:
        real = found.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        raise ExternalDataError(
            f"weights lie in {location!r}, which is not beside the model; copy it to {path.parent}"
        ) from None
    if not any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
        raise ExternalDataError(f"weights lie in {location!r}, a link that leaves the model's folder; {_MERGE}")
    if not stat.S_ISREG(mode):
        raise ExternalDataError(f"weights lie in {location!r}, which is not an ordinary file")
    return real


def _range(tensor: onnx.TensorProto, entries: dict[str, str], file: Path) -> tuple[int, int]:
    """Offset and length of a tensor's bytes."""
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else size - offset
    except ValueError:
        raise ExternalDataError(f"the place of {tensor.name!r} in {file.name} is not a number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ExternalDataError(
            f"{tensor.name!r} should be bytes {offset:,} to {offset + length:,} of {file.name}, which has {size:,}: "
            "the file is cut off or belongs to another model"
        )
    return offset, length
