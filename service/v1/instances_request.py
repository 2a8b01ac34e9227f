"""Requests of TensorFlow Serving's predict API, which is KServe's V1 protocol too.

https://www.tensorflow.org/tfx/serving/api_rest#predict_api and
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from models.images.decode import Pixels
from models.images.input_spec import InputSpec
from service.errors import BodyEmpty, MalformedBody, TooManyImages, WrongShape
from service.http.json_images import check_json_size
from service.http.json_pixels import read_pixels
from service.settings import Limit

_WANTED = '{"instances": [{"b64": "BASE64"}, ...]}'
_IGNORED = "signature_name"  # there is one signature
_ANSWERS: dict[str, Literal["predictions", "outputs"]] = {"instances": "predictions", "inputs": "outputs"}


@dataclass(frozen=True)
class Instances:
    """The images of one request.

    Attributes:
        images: uint8 (N, H, W, C) of the network's size, or N encoded images as base64, by their names in messages.
        answer: the key of the answer, which depends on that of the request.
    """

    images: Pixels | dict[str, str]
    answer: Literal["predictions", "outputs"]


def parse_instances(
    body: bytes, spec: InputSpec, *, limit_images: Limit, limit_json_bytes: Limit, limit_depth: Limit
) -> Instances:
    """Reads a request in row format (`instances`) or columnar format (`inputs`).

    Raises:
        BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages, WrongShape: the message names the fault and its place.
    """
    if not body:
        raise BodyEmpty(f"the body is empty; wanted {_WANTED}")
    check_json_size(body, limit_json_bytes)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}; wanted {_WANTED}") from None
    key = _key(content)
    entries = content[key]
    if key == "inputs":
        entries = _column(entries)
    if not isinstance(entries, list) or not entries:
        raise MalformedBody(f"{key} must be a list with an entry for each image; wanted {_WANTED}")
    if len(entries) > limit_images.value:
        raise TooManyImages(f"{len(entries)} images; the limit of one request is {limit_images}")
    names = [f"{key}[{index}]" for index in range(len(entries))]
    values = [_value(entry, name) for entry, name in zip(entries, names, strict=True)]
    texts = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, str)}
    if len(texts) == len(values):
        return Instances(texts, _ANSWERS[key])
    if texts:
        raise MalformedBody(f"{min(texts)} is base64 and others are pixels; wanted one kind in a request")
    return Instances(_pixels(values, key, spec, limit_depth), _ANSWERS[key])


def _key(content: Any) -> str:
    """`instances` or `inputs`."""
    if not isinstance(content, dict):
        raise MalformedBody(f"the JSON is no object; wanted {_WANTED}")
    if unknown := [key for key in content if key not in (*_ANSWERS, _IGNORED)]:
        advice = "; that body goes to POST /v1/classify" if unknown[0] in ("image", "images") else ""
        raise MalformedBody(f"the JSON has the key {unknown[0][:40]!r}; wanted {_WANTED}{advice}")
    given = [key for key in _ANSWERS if key in content]
    if len(given) != 1:
        raise MalformedBody(f"the JSON has {' and '.join(given) if given else 'no instances'}; wanted {_WANTED}")
    return given[0]


def _column(inputs: Any) -> Any:
    """The only tensor of the columnar format, which may have a name, and may be one image without a list."""
    if isinstance(inputs, dict) and len(inputs) == 1 and "b64" not in inputs:
        (inputs,) = inputs.values()
    return [inputs] if isinstance(inputs, dict | str) else inputs


def _value(entry: Any, name: str) -> str | list[Any]:
    """The base64 or the pixels of one instance; the name that it has for its input does not matter."""
    if isinstance(entry, dict) and len(entry) == 1 and "b64" not in entry:
        (entry,) = entry.values()
    if isinstance(entry, dict) and len(entry) == 1 and "b64" in entry:
        entry = entry["b64"]
        if not isinstance(entry, str):
            raise MalformedBody(f"b64 in {name} must be a text in base64, got {type(entry).__name__}")
    if isinstance(entry, dict):
        keys = ", ".join(repr(key[:40]) for key in list(entry)[:3]) or "none"
        raise MalformedBody(f'{name} has the keys {keys}; the network has one input, wanted {{"b64": "BASE64"}}')
    if not isinstance(entry, str | list):
        got = type(entry).__name__
        raise MalformedBody(f'{name} must be {{"b64": "BASE64"}} or pixels in nested lists, got {got}')
    return entry


def _pixels(rows: list[Any], key: str, spec: InputSpec, limit_depth: Limit) -> Pixels:
    pixels = read_pixels(rows, key, limit_depth)
    height, width, channels = spec.shape
    if pixels.shape[1:] == (height, width) and channels == 1:
        return pixels[..., None]
    if pixels.shape[1:] != spec.shape:
        grey = f" or ({height}, {width})" if channels == 1 else ""
        raise WrongShape(
            f"{key} have the shape {pixels.shape[1:]} each; wanted ({height}, {width}, {channels}){grey}, or an image "
            'of any size as {"b64": "BASE64"}'
        )
    return pixels
