"""Base64: what Python's encoders and browsers write is read; everything else is refused with its place."""

import base64
from urllib.parse import quote

import numpy as np
import pytest

from service.errors import MalformedBody
from service.http.base64_text import decode_base64

LENGTHS = (0, 1, 2, 3, 4, 57, 300, 2**18 * 3 // 4 - 1, 2**18 * 3 // 4 + 1, 500_000)
WRITERS = {
    "standard": lambda data: base64.b64encode(data).decode(),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "lines of Windows": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "data URL": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    "data URL with a parameter": lambda data: "DATA:image/png;name=a.png;BASE64," + base64.b64encode(data).decode(),
    "data URL, escaped": lambda data: "data:;base64," + quote(base64.b64encode(data).decode(), safe=""),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_encoders_write_comes_back(writer):
    for length in LENGTHS:
        data = np.random.default_rng(length).bytes(length)
        assert decode_base64(WRITERS[writer](data), "image") == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("photo.png", "image is not base64: character 6 is wrong, in 'photo.png'"),
        ("AAAA AAAA", "a space may stand for a +"),
        ("QUJD=QUJD", "character 5 is wrong"),
        ("AAAAA", "5 characters are no whole number of bytes; it is cut off"),
        ("AAA===", "it ends with 3 times ="),
        ("++--", "both alphabets"),
        ("häuser", "character 2 is wrong"),
        ("\ud800AAA", "not base64"),
        ("https://example.org/a.png", "image is a URL; this server fetches none"),
        ("data:image/png,%89PNG", "wanted a data: URL in base64"),
        ("data:image/png;base64", "wanted a data: URL in base64"),
    ],
)
def test_what_is_wrong_is_quoted(text, says):
    with pytest.raises(MalformedBody, match=says.replace("+", r"\+")):
        decode_base64(text, "image")
