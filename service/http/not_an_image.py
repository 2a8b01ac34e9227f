"""Bodies that were meant to be an image but are not its bytes: the refusal says how to send it."""

import binascii

from models.images.errors import NotAnImage
from models.images.header import has_signature
from service.errors import MalformedBody

URL_ENCODED = "application/x-www-form-urlencoded"
_JSON = 'send the bytes themselves, or the text in JSON: {"image": "..."}'
_BINARY = b"\x89\xff"  # the first bytes of PNG and JPEG, which no text has
_SHORTEST = 24  # characters of base64 with all that a format is known by
_BASE64_CHARACTERS = 64  # enough for every format's first bytes


def check_body(body: bytes, media_type: str) -> None:
    """Looks at a body that should be the bytes of an image; what is none of the cases here is left to the decoder.

    Raises:
        MalformedBody: `curl -d` left bytes out.
        NotAnImage: base64, a `data:` URL, or a form whose type cannot carry files.
    """
    if media_type == URL_ENCODED and b"\0" not in body and not body.isascii():
        # Every image has zero bytes or line breaks, and curl -d @FILE takes both away.
        if b"\n" not in body and b"\r" not in body:
            raise MalformedBody(
                "the body has no zero byte and no line break, which curl -d strips; send the file with "
                "curl --data-binary @FILE"
            )
    if body[:1] in (_BINARY[:1], _BINARY[1:]):
        return
    start = body[:_BASE64_CHARACTERS].lstrip()
    if start[:5].lower() == b"data:":
        raise NotAnImage(f"the body is a data: URL; {_JSON}")
    if _is_base64(start):
        raise NotAnImage(f"the body is an image in base64; {_JSON}")
    if media_type == URL_ENCODED and b"=" in start and start.isascii():
        raise NotAnImage(
            f"the body is a form of type {URL_ENCODED}, which carries no files; send multipart/form-data "
            "(curl -F image=@FILE) or the bytes (curl --data-binary @FILE)"
        )


def stands_for_image(text: bytes) -> bool:
    """True for an image in base64 and for a `data:` URL, by their first characters."""
    start = text[:_BASE64_CHARACTERS].lstrip()
    return start[:5].lower() == b"data:" or _is_base64(start)


def _is_base64(start: bytes) -> bool:
    """True if this is the beginning of an image in base64."""
    plain = start.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n")
    whole = plain[: len(plain) // 4 * 4]
    try:
        return len(whole) >= _SHORTEST and has_signature(binascii.a2b_base64(whole, strict_mode=True))
    except binascii.Error:
        return False
