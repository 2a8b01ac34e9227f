"""Images in JSON: `{"image": "<base64>"}`, or `{"images": [...]}`, beside options."""

from collections.abc import Collection
from typing import Any

import orjson

from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages
from service.http.base64_text import decode_texts
from service.http.multipart import MULTIPART, Uploads
from service.settings import Limit

_KEYS = ("image", "images")
_WANTED = '{"image": "BASE64"}, or {"images": ["BASE64", ...]}'
_ELSEWHERE = {
    "instances": "; instances go to POST /v1/models/NAME:predict",
    "inputs": "; inputs go to POST /v2/models/NAME/infer",
}
TEXT_FACTOR = 4  # times the limit on JSON that texts may have: they are parsed at least that much faster than numbers
_MOST_VALUES = 10_000  # of JSON over its limit
_BOM = b"\xef\xbb\xbf"


async def parse_json_images(body: bytes, *, limit: Limit, limit_bytes: Limit, fields: Collection[str] = ()) -> Uploads:
    """The images of a JSON body, decoded from base64.

    Args:
        limit: maximum number of images.
        limit_bytes: maximum length of JSON in general.
        fields: names of options that may be beside the images.

    Raises:
        BodyEmpty: a list without images.
        BodyTooLarge: JSON that would take long to parse.
        MalformedBody: not JSON, another key, or a text that is not base64.
        TooManyImages: more images than `limit`.
    """
    check_json_size(body, limit_bytes)
    try:
        content = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    texts = _texts(content, fields, limit)
    uploads = Uploads()
    uploads.fields = {name: _option(name, content[name]) for name in fields if content.get(name) is not None}
    uploads.extend(await decode_texts(texts))
    return uploads


def check_json_size(body: bytes, limit: Limit) -> None:
    """Raises BodyTooLarge for JSON over the limit; mainly texts may have `TEXT_FACTOR` times as many bytes."""
    if len(body) <= limit.value:
        return
    advice = f"send the bytes of the image, or {MULTIPART}"
    if len(body) > TEXT_FACTOR * limit.value:
        raise BodyTooLarge(f"the JSON has {len(body)} bytes; the limit is {TEXT_FACTOR} times {limit}; {advice}")
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MOST_VALUES:
        raise BodyTooLarge(f"the JSON has {len(body)} bytes and more than texts in it; the limit is {limit}; {advice}")


def _texts(content: Any, fields: Collection[str], limit: Limit) -> dict[str, str]:
    """The encoded images by their names in messages."""
    if not isinstance(content, dict):
        raise MalformedBody(f"the JSON is {_kind(content)}; wanted {_WANTED}")
    if unknown := [key for key in content if key not in (*_KEYS, *fields)]:
        options = f"; options are {', '.join(fields)}" if fields else "; options go into the query"
        advice = _ELSEWHERE.get(unknown[0], options)
        raise MalformedBody(f"the JSON has the key {unknown[0][:40]!r}; wanted {_WANTED}{advice}")
    given = [key for key in _KEYS if content.get(key) is not None]
    if len(given) != 1:
        raise MalformedBody(f"the JSON has {' and '.join(given) if given else 'no image'}; wanted {_WANTED}")
    (key,) = given
    entries = content[key]
    named = {"image": entries} if key == "image" else None
    if named is None:
        if not isinstance(entries, list):
            raise MalformedBody(f"images is {_kind(entries)}; wanted a list of texts in base64")
        if not entries:
            raise BodyEmpty("images is an empty list")
        if len(entries) > limit.value:
            raise TooManyImages(f"{len(entries)} images; the limit of one request is {limit}")
        named = {f"images[{index}]": entry for index, entry in enumerate(entries)}
    for name, entry in named.items():
        if not isinstance(entry, str):
            advice = "; pixels as numbers go to POST /predict" if isinstance(entry, list) else ""
            raise MalformedBody(f"{name} is {_kind(entry)}; wanted a text in base64{advice}")
    return named


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedBody(f"{name} is {_kind(value)}; wanted a text or a whole number")
    return str(value).strip()


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
