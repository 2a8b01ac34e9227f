"""The files of a multipart form that is completely in memory (RFC 7578, RFC 2046)."""

import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header

from service.errors import BodyEmpty, MalformedBody, TooManyImages
from service.http.base64_text import decode_base64
from service.http.not_an_image import stands_for_image
from service.settings import Limit

MULTIPART = "multipart/form-data"
_HEADERS_LIMIT_BYTES = 8192
_VALUE_LIMIT_BYTES = 200  # of a field that is no file
# What curl, browsers, requests and httpx write. Parsing headers in general takes several times as long.
_USUAL_BOUNDARY = re.compile(r"multipart/form-data; ?boundary=([\w'()+./:=?-]+)", re.ASCII)
_USUAL_HEADERS = re.compile(
    rb'\r\nContent-Disposition: form-data; name="([^"\\\r\n]*)"; filename="([^"\\\r\n]*)"\r\n'
    rb"Content-Type: (image/[\w.+-]+|application/octet-stream)\r\n\r\n",
    re.IGNORECASE,
)
_EXTENDED_NAME = re.compile(rb"(?i);\s*filename\*\s*=\s*\"?[\w-]*'[^']*'([^;\"]*)")  # RFC 8187, section 3.2


class Uploads(list[bytes]):
    """The encoded images of a request.

    Attributes:
        places: for each file of a form, its field and its name, which may be empty; none for a body without a form.
        fields: the form's values that are no files.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[str, str]] = []
        self.fields: dict[str, str] = {}


class _Part(NamedTuple):
    field: str
    name: str | None  # of its file; None if it is none
    is_image: bool  # by its media type
    content: bytes


def parse_multipart(body: bytes, content_type: str, *, limit: Limit, fields: Collection[str] = ()) -> Uploads:
    """The content of every file of a form, in order.

    Starlette's parser is designed for forms that do not fit into memory: it iterates over the bytes and writes
    temporary files, and takes ten times as long.

    Args:
        fields: names that may have values instead of files.

    Raises:
        BodyEmpty: a form without files, or with a file field in which none was chosen.
        MalformedBody: a form that is damaged, truncated, or has a field that is neither a file nor one of `fields`.
        TooManyImages: more files than `limit`.
    """
    boundary = _boundary(content_type)
    delimiter = b"\r\n--" + boundary
    most = limit.value + len(fields)
    # The preamble before the first part is ignored.
    preamble, *parts = (b"\r\n" + body).split(delimiter, most + 2)
    count = next((n for n, part in enumerate(parts) if part.startswith(b"--")), None)
    if count is None and len(parts) <= most:
        if preamble.strip() and not parts:
            raise MalformedBody(f"{MULTIPART}: the boundary that Content-Type names is not in the body")
        raise MalformedBody(f"{MULTIPART}: the closing boundary is missing, so the form was cut off")
    uploads = Uploads()
    for number, part in enumerate(parts[:count], start=1):
        _add(uploads, _parsed(part, number), fields)
        if len(uploads) > limit.value:
            raise TooManyImages(f"the form has more images than the limit of one request, which is {limit}")
    if not uploads:
        raise BodyEmpty("the form has no files")
    return uploads


def _boundary(content_type: str) -> bytes:
    if usual := _USUAL_BOUNDARY.fullmatch(content_type):
        return usual[1].encode()
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedBody(f"{MULTIPART}: Content-Type names no boundary")
    return boundary


def _add(uploads: Uploads, part: _Part, fields: Collection[str]) -> None:
    if part.name == "" and not part.content and not part.is_image:
        raise BodyEmpty(f"no file was chosen in the form's field {part.field[:40]!r}")
    if part.name is not None or (part.is_image and part.field not in fields):
        uploads.append(part.content)
        uploads.places.append((part.field, part.name or ""))
        return
    if part.field not in fields:
        known = f"; fields without a file are {', '.join(fields)}" if fields else "; options go into the query"
        if stands_for_image(part.content):
            known = '; images in base64 go into JSON, {"image": "..."}'
        raise MalformedBody(f"the form field {part.field[:40]!r} has no filename and no image's Content-Type{known}")
    if part.field in uploads.fields:
        raise MalformedBody(f"the form has the field {part.field} more than once; wanted one value")
    if len(part.content) > _VALUE_LIMIT_BYTES:
        raise MalformedBody(f"the form field {part.field} has more than {_VALUE_LIMIT_BYTES} bytes")
    uploads.fields[part.field] = part.content.decode(errors="replace").strip()


def _parsed(part: bytes, number: int) -> _Part:
    """Part `number`, which begins after its delimiter."""
    if usual := _USUAL_HEADERS.match(part, 0, _HEADERS_LIMIT_BYTES):
        return _Part(_text(usual[1]), _text(usual[2]), usual[3][:1] in b"iI", part[usual.end() :])
    end = part.find(b"\r\n\r\n", 0, _HEADERS_LIMIT_BYTES)
    first, *headers = part[: max(end, 0)].split(b"\r\n")
    if end < 0 or first.strip(b" \t") or not headers:
        raise MalformedBody(
            f"{MULTIPART}: part {number} has no headers, or more than {_HEADERS_LIMIT_BYTES} bytes of them"
        )
    field = name = None
    is_image = False
    encoding = ""
    for line in headers:
        key, _, value = line.partition(b":")
        if key.lower() == b"content-transfer-encoding":
            encoding = _text(value.strip().lower())
        elif key.lower() == b"content-type":
            is_image = value.strip().lower().startswith(b"image/")
        elif key.lower() == b"content-disposition" and field is None:
            kind, options = parse_options_header(value.strip())
            extended = _EXTENDED_NAME.search(value)
            name = unquote_to_bytes(extended[1]) if extended else options.get(b"filename")
            if kind == b"form-data" and (b"name" in options or name is not None):
                field = options.get(b"name", b"")
    if field is None:
        raise MalformedBody(f"{MULTIPART}: part {number} does not say that it is a field of the form")
    return _Part(
        _text(field), None if name is None else _text(name), is_image, _decoded(part[end + 4 :], encoding, number)
    )


def _decoded(content: bytes, encoding: str, number: int) -> bytes:
    """The content without its Content-Transfer-Encoding, which RFC 7578 deprecates and some clients send."""
    if encoding in ("", "binary", "7bit", "8bit"):
        return content
    if encoding == "base64":
        return decode_base64(_text(content), f"part {number} of the form")
    raise MalformedBody(
        f"{MULTIPART}: part {number} has the Content-Transfer-Encoding {encoding[:40]!r}; wanted binary or base64"
    )


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
