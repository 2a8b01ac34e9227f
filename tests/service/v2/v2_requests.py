"""Inference requests of the Open Inference Protocol for a model called lenet, sound and spoilt."""

import json
import struct

from tests.in_process import digit, encoded

INFER = "/v2/models/lenet/infer"
PIXELS = 28 * 28
PNG = encoded(digit())
BYTES = {"datatype": "BYTES", "shape": [1]}


def tensor(**changes):
    """An image input in JSON, with some of its members changed, or left out where they are None."""
    whole = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * PIXELS, **changes}
    return {key: value for key, value in whole.items() if value is not None}


def ask(**changes):
    """A request with such an input."""
    return {"inputs": [tensor(**changes)]}


def binary(content, tail, header_bytes=None, **headers):
    """What a client is given to send JSON and bytes after it."""
    head = json.dumps(content).encode()
    length = len(head) if header_bytes is None else header_bytes
    return {"content": head + tail, "headers": {"Inference-Header-Content-Length": str(length), **headers}}


def with_bytes(tail, size=None, **changes):
    """A request that says its tensor follows."""
    return ask(data=None, parameters={"binary_data_size": len(tail) if size is None else size}, **changes)


def element(data, length=None):
    """An element of a BYTES tensor, or one that says it has another length."""
    return struct.pack("<I", len(data) if length is None else length) + data
