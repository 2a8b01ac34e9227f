"""Inference requests of the Open Inference Protocol: the JSON, and the bytes that follow it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
import orjson

from models.images.decode import Pixels
from models.images.input_spec import InputSpec
from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages, WrongShape
from service.http.base64_text import decode_base64
from service.http.json_pixels import read_pixels
from service.settings import Limit
from service.v2.tensors import split_elements

INPUT = "image"
SCORES = ("probabilities", "logits")  # outputs of every network; any other output is a layer
_LONGEST_NAME = 256  # an unknown name is compared with all known ones, which is slow for long names
_KINDS = {str: "text", dict: "an object", list: "an array", bool: "true or false", int: "a whole number"}
T = TypeVar("T", str, dict[str, Any], list[Any], bool, int)


@dataclass(frozen=True)
class RequestedOutput:
    """One requested output.

    Attributes:
        binary: send the values as bytes after the JSON.
        classes: number of top classes to return as text (classification extension); 0 for the values themselves.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """One inference request.

    Attributes:
        id: returned in the answer, if given.
        images: uint8 (N, H, W, C) of the network's size, or N encoded images; N is at least 1.
    """

    id: str | None
    images: Pixels | Sequence[bytes]
    outputs: tuple[RequestedOutput, ...]


def parse_request(
    body: bytes, header_bytes: int | None, spec: InputSpec, *, limit_images: Limit, limit_json_bytes: Limit
) -> InferRequest:
    """Reads a request.

    Args:
        body: JSON, and after it the tensor if that is binary.
        header_bytes: length of the JSON; None for the whole body.
        spec: the network's input specification.
        limit_images: maximum number of images.
        limit_json_bytes: maximum length of the JSON.

    Raises:
        BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages, WrongShape: the message names the fault and its place.
    """
    if not body:
        raise BodyEmpty("the body is empty; it must begin with an inference request in JSON")
    if header_bytes is not None and header_bytes > len(body):
        raise MalformedBody(f"Inference-Header-Content-Length is {header_bytes}, and the body has {len(body)} bytes")
    end = len(body) if header_bytes is None else header_bytes
    if end > limit_json_bytes.value:
        raise BodyTooLarge(f"the JSON has {end} bytes; the limit is {limit_json_bytes}; send the tensor as binary data")
    view = memoryview(body)
    content = parse_object(view[:end])
    parameters = _member(content, "parameters", dict, {})
    inputs = _member(content, "inputs", list)
    if len(inputs) != 1:
        raise MalformedBody(f"inputs has {len(inputs)} tensors; wanted one, {INPUT!r}")
    identifier = None if content.get("id") is None else _member(content, "id", str)
    return InferRequest(
        identifier,
        _images(_object(inputs[0], "an input"), view[end:], spec, limit_images),
        _outputs(_member(content, "outputs", list, []), binary=_member(parameters, "binary_data_output", bool, False)),
    )


def raw_request(body: bytes, content_type: str, spec: InputSpec) -> InferRequest:
    """Reads a request whose whole body is one tensor: the pixels of one image, or an image file by its Content-Type.

    Raises:
        WrongShape: the number of bytes is not the network's.
    """
    outputs = tuple(RequestedOutput(name, binary=True) for name in SCORES)
    if content_type.strip().lower().startswith("image/"):
        return InferRequest(None, [body], outputs)
    if len(body) != prod(spec.shape):
        shape = "x".join(map(str, spec.shape))
        raise WrongShape(
            f"the body has {len(body)} bytes; wanted {prod(spec.shape)}, the pixels of one image of {shape}, "
            "or an image file with its Content-Type, such as image/png"
        )
    return InferRequest(None, np.frombuffer(body, np.uint8).reshape(1, *spec.shape), outputs)


def parse_object(data: bytes | memoryview) -> dict[str, Any]:
    """Parses JSON that must be an object.

    Raises:
        MalformedBody: it is not JSON, or not an object.
    """
    try:
        return _object(orjson.loads(data), "the request")
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the request is not JSON: {error}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedBody(f"{what} must be an object, got {type(value).__name__}")
    return value


def _member(content: dict[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    value = content.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not kind:  # a bool is an int to isinstance
        got = "nothing" if value is None else type(value).__name__
        raise MalformedBody(f"{key} must be {_KINDS[kind]}, got {got}")
    return value


def _images(tensor: dict[str, Any], tail: memoryview, spec: InputSpec, limit: Limit) -> Pixels | list[bytes]:
    name, datatype = _member(tensor, "name", str), _member(tensor, "datatype", str)
    if name != INPUT:
        raise MalformedBody(f"there is no input {name[:40]!r}; the network takes {INPUT!r}")
    if datatype not in ("UINT8", "BYTES"):
        raise MalformedBody(f"{INPUT} is {datatype[:20]!r}; wanted UINT8 pixels or BYTES with encoded images")
    shape = _shape(_member(tensor, "shape", list), datatype, spec, limit)
    parameters = _member(tensor, "parameters", dict, {})
    _refuse_shared_memory(parameters)
    if "binary_data_size" not in parameters:
        if tail:
            raise MalformedBody(f"{len(tail)} bytes follow the JSON, and no input has the parameter binary_data_size")
        data = _member(tensor, "data", list)
        return _json_pixels(data, shape) if datatype == "UINT8" else _json_elements(data, shape[0], parameters)
    size = _member(parameters, "binary_data_size", int)
    if "data" in tensor or size != len(tail):
        data_too = " and data is given too" if "data" in tensor else ""
        raise MalformedBody(f"binary_data_size is {size}, {len(tail)} bytes follow the JSON{data_too}")
    if datatype == "BYTES":
        return split_elements(tail, shape[0])
    if size != prod(shape):
        raise MalformedBody(f"binary_data_size is {size}; the shape {shape} has {prod(shape)} bytes")
    return np.frombuffer(tail, np.uint8).reshape(shape)


def _shape(shape: list[Any], datatype: str, spec: InputSpec, limit: Limit) -> list[int]:
    if any(type(length) is not int or length < 0 for length in shape):
        raise MalformedBody("shape must be an array of whole numbers from 0")
    wanted: list[list[Any]] = [["N", *spec.shape]] if datatype == "UINT8" else [["N"], ["N", 1]]
    if not shape or shape[0] < 1 or shape[1:] not in [one[1:] for one in wanted]:
        known = " or ".join(f"[{', '.join(map(str, one))}]" for one in wanted)
        raise WrongShape(f"{INPUT} has the shape {str(shape)[:80]}; wanted {known} of {datatype}, N from 1")
    if shape[0] > limit.value:
        raise TooManyImages(f"{shape[0]} images; the limit of one request is {limit}")
    return shape


def _json_pixels(data: list[Any], shape: list[int]) -> Pixels:
    pixels = read_pixels(data, "data", Limit(len(shape)))
    if list(pixels.shape) not in ([prod(shape)], shape):
        has = "x".join(map(str, pixels.shape[:8]))
        raise MalformedBody(f"data has {has} values; the shape {shape} has {prod(shape)}")
    return pixels.reshape(shape)


def _json_elements(data: list[Any], count: int, parameters: dict[str, Any]) -> list[bytes]:
    if parameters.get("content_type") != "base64":
        raise MalformedBody(
            "JSON texts cannot hold image files; send them as binary data (binary_data_size), "
            'or in base64 with the input\'s parameter "content_type": "base64"'
        )
    flat = [item for entry in data for item in (entry if isinstance(entry, list) else [entry])]  # [N, 1] may be nested
    if len(flat) != count:
        raise MalformedBody(f"data has {len(flat)} elements; the shape says {count}")
    if others := [index for index, element in enumerate(flat) if not isinstance(element, str)]:
        raise MalformedBody(f"data[{others[0]}] is not base64 but {type(flat[others[0]]).__name__}")
    return [decode_base64(element, f"data[{index}]") for index, element in enumerate(flat)]


def _outputs(entries: list[Any], *, binary: bool) -> tuple[RequestedOutput, ...]:
    if not entries:
        return tuple(RequestedOutput(name, binary) for name in SCORES)
    wanted = tuple(_output(_object(entry, "an output"), binary) for entry in entries)
    if len({output.name for output in wanted}) < len(wanted):
        raise MalformedBody("an output is asked for more than once")
    return wanted


def _output(entry: dict[str, Any], binary: bool) -> RequestedOutput:
    name, parameters = _member(entry, "name", str), _member(entry, "parameters", dict, {})
    if len(name) > _LONGEST_NAME:
        raise MalformedBody(f"the name of an output has {len(name)} characters; the limit is {_LONGEST_NAME}")
    _refuse_shared_memory(parameters)
    classes = _member(parameters, "classification", int, 0)
    if classes < 0:
        raise MalformedBody(f"classification is {classes}; wanted a number of classes")
    if classes and name not in SCORES:
        raise MalformedBody(f"classification is for {' and '.join(SCORES)}, not for the layer {name[:40]!r}")
    return RequestedOutput(name, _member(parameters, "binary_data", bool, binary), classes)


def _refuse_shared_memory(parameters: dict[str, Any]) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise MalformedBody("there is no shared memory here; send tensors as binary data")
