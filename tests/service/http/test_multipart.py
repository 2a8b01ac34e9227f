"""Forms: as three clients write them, and taken apart as Starlette's parser does it."""

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from urllib3.filepost import encode_multipart_formdata

from service.errors import RequestError, TooManyImages
from service.http.multipart import Uploads, parse_multipart
from service.settings import Limit

FILES = [np.random.default_rng(3).bytes(size) for size in (0, 1, 300, 70_000)] + [
    b"\r\n",
    b"--",
    b"\r\n--",
    b"\n--x\n",
    b"\r\n\r\n--x--\r\n",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n",
]
NAMES = ["a.png", "Übung.png", 'with "quotes".png', "semi;colon=.png", "back\\slash", "equal=sign", "a"]
Form = tuple[bytes, str]


def fields(files: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (NAMES[index % len(NAMES)], data)) for index, data in enumerate(files)]


def of_httpx(files: list[bytes]) -> Form:
    request = httpx.Request("POST", "http://x", files=fields(files))
    return request.read(), request.headers["content-type"]


def of_urllib3(files: list[bytes]) -> Form:
    return encode_multipart_formdata(fields(files))


def of_aiohttp(files: list[bytes]) -> Form:
    import aiohttp
    from aiohttp.test_utils import make_mocked_coro

    form = aiohttp.FormData()
    for name, (filename, data) in fields(files):
        form.add_field(name, data, filename=filename)
    written = bytearray()

    class Writer:
        async def write(self, part: bytes) -> None:
            written.extend(part)

        write_eof = make_mocked_coro()

    payload = form()
    asyncio.run(payload.write(Writer()))
    return bytes(written), payload.headers["Content-Type"]


def of_starlettes_parser(body: bytes, content_type: str) -> list[bytes]:
    return [data for data, _ in files_of_starlettes_parser(body, content_type)]


def files_of_starlettes_parser(body: bytes, content_type: str) -> list[tuple[bytes, tuple[str, str]]]:
    async def parsed() -> list[tuple[bytes, tuple[str, str]]]:
        async def stream():
            yield body

        form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
        try:
            parts = form.multi_items()
            if any(isinstance(part, str) for _, part in parts):
                raise ValueError("it takes an image without a file's name for a text")
            return [(await part.read(), (field, part.filename)) for field, part in parts]
        finally:
            await form.close()

    return asyncio.run(parsed())


@pytest.mark.parametrize("written", [of_httpx, of_urllib3, of_aiohttp])
def test_what_clients_write_is_read(written: Callable[[list[bytes]], Form]) -> None:
    body, content_type = written(FILES)
    assert (
        parse_multipart(body, content_type, limit=Limit(len(FILES)))
        == FILES
        == of_starlettes_parser(body, content_type)
    )
    with pytest.raises(TooManyImages, match=f"the limit of one request, which is {len(FILES) - 1}"):
        parse_multipart(body, content_type, limit=Limit(len(FILES) - 1))


def test_text_before_and_after_the_form_is_ignored() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\nX: y\r\n\r\n1\r\n'
    assert parse_multipart(
        b"before\r\n" + part + b"--x-- \r\nafter", 'multipart/form-data; boundary="x"', limit=Limit(1)
    ) == [b"1"]


def test_damaged_forms_are_refused_or_read_as_another_parser_reads_them() -> None:
    whole, content_type = of_httpx(FILES[:3])
    random, same, refused = np.random.default_rng(1), 0, 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            where = int(random.integers(len(damaged)))
            damaged[where : where + int(random.integers(2))] = random.choice([b"\r\n", b"-", b"\r", b":", b";", b"\0"])
        body = bytes(damaged[: random.integers(len(damaged)) if random.random() < 0.2 else None])
        try:
            found = parse_multipart(body, content_type, limit=Limit(5))
        except RequestError:
            refused += 1
            continue
        try:
            wanted = of_starlettes_parser(body, content_type)
        except (MultiPartException, ValueError):
            continue  # it is stricter about the characters of headers that do not matter here
        assert found == wanted
        same += 1
    assert same > 500 and refused > 200, (same, refused)


@pytest.mark.parametrize("header", [0, 1, 2])
def test_names_in_the_usual_headers_are_read_as_another_parser_reads_them(header: int) -> None:
    spelled = [
        b'Content-Disposition: form-data; name="%b"; filename="%b"\r\nContent-Type: image/png',
        b'content-disposition: Form-Data; name="%b"; filename="%b"\r\ncontent-type: Image/JPEG',
        b'Content-Disposition: form-data; name="%b"; filename="%b"\r\nContent-Type: application/octet-stream',
    ][header]
    random = np.random.default_rng(header)
    characters = [b"a", b".png", b" ", b"%22", b"\\", b'\\"', b";", b"=", b"*", b"'", b"\xc3\xbc", b"C:\\", b"\t", b"/"]
    same = 0
    for _ in range(1000):
        field, name = (b"".join(random.choice(characters, random.integers(1, 5)).tolist()) for _ in range(2))
        if (field[-1:] + name[-1:]).count(b"\\"):
            continue  # it escapes the quote that ends the name
        body = b"--x\r\n" + spelled % (field, name) + b"\r\n\r\n\x89PNG\r\n--x--\r\n"
        content_type = ["multipart/form-data; boundary=x", 'multipart/form-data;boundary="x"'][random.integers(2)]
        found = parse_multipart(body, content_type, limit=Limit(1))
        wanted = files_of_starlettes_parser(body, content_type)
        assert list(zip(found, found.places, strict=True)) == wanted, body
        same += b"\\" not in field + name
    assert 100 < same < 900  # names with a backslash are no usual ones


def part(disposition: str, content: bytes, kind: str = "") -> bytes:
    head = f"Content-Disposition: form-data; {disposition}\r\n" + (f"Content-Type: {kind}\r\n" if kind else "")
    return b"--x\r\n" + head.encode() + b"\r\n" + content + b"\r\n"


def parsed(*parts: bytes, fields: tuple[str, ...] = ()) -> Uploads:
    return parse_multipart(
        b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x", limit=Limit(3), fields=fields
    )


@pytest.mark.parametrize(
    ("disposition", "kind", "place"),
    [
        ('name="a"; filename="b.png"', "", ("a", "b.png")),
        ("name=\"a\"; filename*=UTF-8''caf%C3%A9.png", "image/png", ("a", "café.png")),
        ('name="a"; filename="cafe.png"; filename*=utf-8\'en\'caf%C3%A9.png', "", ("a", "café.png")),
        ('name="a"', "image/png", ("a", "")),
        ('name="a"', "Image/JPEG; q=1", ("a", "")),
        ('filename="b.png"', "", ("", "b.png")),
        ('name="a"; filename=""', "image/png", ("a", "")),
    ],
)
def test_what_is_a_file(disposition: str, kind: str, place: tuple[str, str]) -> None:
    found = parsed(part(disposition, b"123", kind))
    assert (found, found.places, found.fields) == ([b"123"], [place], {})


def test_options_are_fields_of_the_form_and_files_may_have_their_names() -> None:
    options = (part('name="top_k"', b" 3 "), part('name="model"', b"lenet"))
    found = parsed(*options, part('name="model"; filename="a.png"', b"123"), fields=("model", "top_k"))
    assert (found, found.places, found.fields) == ([b"123"], [("model", "a.png")], {"top_k": "3", "model": "lenet"})


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([part('name="photo"; filename=""', b"")], "no file was chosen in the form's field 'photo'"),
        (
            [part('name="other"', b"3")],
            "'other' has no filename and no image's Content-Type; fields",
        ),
        ([part('name="a"', b"3"), part('name="a"', b"4")], "the field a more than once"),
        ([part('name="a"', b"3" * 300)], "more than 200 bytes"),
        ([part('name="a"', b"3")], "has no files"),
    ],
)
def test_fields_that_are_refused(parts: list[bytes], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parsed(*parts, fields=("a",))
