"""Bytes in base64 (RFC 4648), as clients write them: both alphabets, with or without padding, or in a data: URL."""

import asyncio
import binascii
from collections.abc import Mapping
from urllib.parse import unquote

from service.errors import MalformedBody

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_THREAD_CHARACTERS = 2**18  # decoding more takes longer than switching to a thread
_PART = 2**18  # characters, decoded in about 2 ms; the interpreter lets other threads run between parts


async def decode_texts(texts: Mapping[str, str]) -> list[bytes]:
    """Decodes texts by their names in messages: long ones in a thread; see `decode_base64`."""
    if sum(map(len, texts.values())) <= _THREAD_CHARACTERS:
        return [decode_base64(text, name) for name, text in texts.items()]
    return await asyncio.to_thread(lambda: [decode_base64(text, name) for name, text in texts.items()])


def decode_base64(text: str, name: str) -> bytes:
    """The bytes that a text encodes.

    Args:
        text: base64 or URL-safe base64, in which padding may be missing and lines may be broken, or in a `data:` URL.
        name: name of the text in messages.

    Raises:
        MalformedBody: it is neither, or ambiguous; the message quotes what is wrong and where.
    """
    data = _encoded(_payload(text, name), name)
    if b"-" in data or b"_" in data:
        if b"+" in data or b"/" in data:
            raise MalformedBody(f"{name} is not base64: it has characters of both alphabets, + or / beside - or _")
        data = data.translate(_TO_STANDARD)
    if len(data) % 4 == 1:
        raise MalformedBody(f"{name} is not base64: {len(data)} characters are no whole number of bytes; it is cut off")
    data += b"=" * (-len(data) % 4)
    parts = [binascii.a2b_base64(data[start : start + _PART]) for start in range(0, len(data), _PART)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _payload(text: str, name: str) -> str:
    """The base64 of a `data:` URL (RFC 2397), in which some characters may be percent-encoded, or the whole text."""
    start = text[:8].lower()
    if start.startswith(("http://", "https:/")):
        raise MalformedBody(f"{name} is a URL; this server fetches none, send the bytes of the image in base64")
    if not start.startswith("data:"):
        return text
    head, comma, payload = text.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise MalformedBody(f"{name} begins {head[:40]!r}; wanted a data: URL in base64, data:image/png;base64,...")
    return unquote(payload, errors="replace") if "%" in payload else payload


def _encoded(payload: str, name: str) -> bytes:
    """The characters of the alphabets alone: no line breaks, no padding."""
    data = payload.encode(errors="replace").strip().translate(None, b"\r\n\t")
    encoded = data.rstrip(b"=")
    if strange := encoded.translate(None, _ALPHABET + b"-_")[:1]:
        place = encoded.index(strange)
        why = "; a space may stand for a + that was decoded as in a URL" if strange == b" " else ""
        near = encoded[max(0, place - 8) : place + 8].decode(errors="replace")
        raise MalformedBody(f"{name} is not base64: character {place + 1} is wrong, in {near!r}{why}")
    if len(data) - len(encoded) > 2:
        raise MalformedBody(f"{name} is not base64: it ends with {len(data) - len(encoded)} times =; wanted up to 2")
    return encoded
