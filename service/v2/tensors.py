"""Tensors of the Open Inference Protocol as bytes, after the binary tensor data extension.

Numbers are little-endian in row-major order; an element of a BYTES tensor is its length, unsigned 32 bits, and its
bytes.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from models.images.decode import Floats
from service.errors import MalformedBody

HEADER_LENGTH = "inference-header-content-length"  # length of the JSON in a body with binary tensors
_LENGTH = struct.Struct("<I")


def split_elements(data: bytes | memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        MalformedBody: `data` does not hold exactly `count` of them.
    """
    elements, offset = [], 0
    for index in range(count):
        if offset + _LENGTH.size > len(data):
            raise MalformedBody(
                f"the data ends before element {index} of {count}; each has 4 bytes of length before it"
            )
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if length > len(data) - offset:
            raise MalformedBody(f"element {index} says it has {length} bytes, and {len(data) - offset} are left")
        elements.append(bytes(data[offset : offset + length]))
        offset += length
    if offset != len(data):
        raise MalformedBody(f"{len(data) - offset} bytes are left after {count} elements")
    return elements


def join_elements(elements: Sequence[bytes]) -> bytes:
    """The inverse of `split_elements`."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One output of an answer.

    Attributes:
        values: float32 of `shape`, or UTF-8 texts in row-major order.
        binary: true if it follows the JSON as bytes, false if it is in the JSON as `data`.
    """

    name: str
    shape: tuple[int, ...]
    values: Floats | list[bytes]
    binary: bool

    @property
    def datatype(self) -> Literal["FP32", "BYTES"]:
        """The protocol's name of the type."""
        return "BYTES" if isinstance(self.values, list) else "FP32"

    def to_bytes(self) -> bytes:
        """The values in the extension's binary format."""
        if isinstance(self.values, list):
            return join_elements(self.values)
        return np.ascontiguousarray(self.values, "<f4").tobytes()

    def to_json(self) -> Any:
        """The flat values for JSON, for orjson with `OPT_SERIALIZE_NUMPY`."""
        if isinstance(self.values, list):
            return [value.decode() for value in self.values]
        return np.ascontiguousarray(self.values).reshape(-1)


@dataclass(frozen=True)
class Encoded:
    """An answer's body; `header_bytes` is the length of its JSON, or None if the body is only JSON."""

    body: bytes
    header_bytes: int | None = None


def encode_answer(fields: dict[str, Any], tensors: Sequence[Tensor]) -> Encoded:
    """An inference response: `fields` with the key `outputs` added, followed by the binary tensors in order."""
    outputs, parts = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.binary:
            parts.append(tensor.to_bytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = tensor.to_json()
        outputs.append(entry)
    header = orjson.dumps({**fields, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Encoded(b"".join([header, *parts]), len(header)) if parts else Encoded(header)
