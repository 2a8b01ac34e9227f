"""The fast decoders give Pillow's pixels, refuse what Pillow refuses, and leave everything unusual to it."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from sklearn.datasets import load_sample_image

from models.images.decode import decode_image, decode_picture
from models.images.errors import ImageError
from models.images.fast import decode_plain
from models.images.input_spec import InputSpec
from tests.models.images.image_files import encode, spec_of

PHOTO = Image.fromarray(load_sample_image("flower.jpg"))
LIMIT = 50_000_000


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def outcome(data: bytes, spec: InputSpec) -> tuple[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it reads on through
        try:
            return "", decode_image(data, spec).tobytes()
        except ImageError as error:
            return error.code, b""


def plain_files() -> dict[str, bytes]:
    """Files of both kinds, in sizes that are no multiples of blocks, with every kind of chroma subsampling."""
    made = {}
    for width, height in ((1, 1), (7, 5), (16, 16), (61, 37), (199, 200)):
        for mode in ("L", "RGB"):
            image = PHOTO.resize((width, height)).convert(mode)
            made[f"{mode} {width}x{height} png"] = encode(image)
            made[f"{mode} {width}x{height} png9"] = encode(image, compress_level=9)
            for quality in (5, 75, 100):
                for subsampling in (0, 1, 2):
                    options = {"quality": quality, "subsampling": subsampling}
                    made[f"{mode} {width}x{height} {options}"] = encode(image, "JPEG", **options)
            made[f"{mode} {width}x{height} progressive"] = encode(image, "JPEG", progressive=True)
            made[f"{mode} {width}x{height} restarts"] = encode(image, "JPEG", restart_marker_blocks=2)
    return made


def test_plain_images_are_decoded_fast_and_to_pillows_pixels() -> None:
    files = plain_files()
    assert len(files) > 100
    for name, data in files.items():
        found = decode_plain(data, spec_of("RGB", 500, 500), LIMIT)
        assert found is not None, name
        np.testing.assert_array_equal(found, by_pillow(data), err_msg=name)


@pytest.mark.parametrize("part", [2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_part_of_the_size_is_pillows_draft(part: int, mode: str) -> None:
    data = encode(PHOTO.resize((640, 480)).convert(mode), "JPEG")
    side = 480 // part // 2
    found = decode_plain(data, spec_of(mode, side, side), LIMIT)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (640 // part, 480 // part))
        np.testing.assert_array_equal(found, np.asarray(image))


def test_an_orientation_turns_what_was_decoded_fast() -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        data = encode(PHOTO.resize((60, 40)), "JPEG", exif=exif)
        found = decode_plain(data, spec_of("RGB", 500, 500), LIMIT)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(image)))


def _palette() -> bytes:
    return encode(PHOTO.resize((9, 9)).quantize(16))


def _text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    return encode(PHOTO.resize((9, 9)), pnginfo=info)


@pytest.mark.parametrize(
    "make",
    [
        _palette,
        _text,
        lambda: encode(PHOTO.resize((9, 9)).convert("RGBA")),
        lambda: encode(PHOTO.resize((9, 9)).convert("1")),
        lambda: encode(PHOTO.resize((9, 9)).convert("L"), transparency=7),
        lambda: encode(Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9))),
        lambda: encode(PHOTO.resize((9, 9)).convert("CMYK"), "JPEG"),
        lambda: encode(PHOTO.resize((300, 300))),
        lambda: encode(PHOTO.resize((9, 9)), "GIF"),
        lambda: b"",
    ],
)
def test_all_others_are_left_to_pillow(make: Callable[[], bytes]) -> None:
    assert decode_plain(make(), spec_of("RGB"), LIMIT) is None


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_damaged_files_end_as_they_do_with_pillow_alone(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes changed, removed and added anywhere: the same pixels or the same error, whoever decodes."""
    random, cases = np.random.default_rng(3), []
    for _ in range(400):
        mode = "L" if random.random() < 0.5 else "RGB"
        image = PHOTO.resize(tuple(random.integers(1, 60, 2).tolist())).convert(mode)
        data = bytearray(encode(image, form))
        for place in random.integers(0, len(data), size=random.integers(0, 4)):
            data[place] = random.integers(0, 256)
        if random.random() < 0.3:
            del data[random.integers(1, len(data)) :]
        if random.random() < 0.2:
            data += random.integers(0, 256, 9, dtype=np.uint8).tobytes()
        cases.append((bytes(data), spec_of(mode, image.height, image.width)))
    found = [outcome(*case) for case in cases]
    monkeypatch.setattr("models.images.decode.decode_plain", lambda *_: None)
    assert [outcome(*case) for case in cases] == found
    assert {code for code, _ in found} >= {"", "image_undecodable"}


def check_all(files: list[bytes], mode: str) -> None:
    for data in files:
        wanted = by_pillow(data)
        found = decode_image(data, spec_of(mode, *wanted.shape[:2]))
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("count", [500, pytest.param(None, marks=pytest.mark.acceptance)])
def test_real_photographs_are_pillows(shared_data: Path, count: int | None) -> None:
    paths = sorted((shared_data / "cifar10-jpeg").rglob("*.jpg"))[:count]
    check_all([path.read_bytes() for path in paths], "RGB")


@pytest.mark.parametrize("count", [500, pytest.param(None, marks=pytest.mark.acceptance)])
def test_mnist_as_png_is_itself(shared_data: Path, count: int | None) -> None:
    raw = (shared_data / "MNIST/raw/train-images-idx3-ubyte").read_bytes()
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    for image in images:
        np.testing.assert_array_equal(decode_image(encode(Image.fromarray(image)), spec_of("L", 28, 28))[..., 0], image)


def test_a_picture_at_its_own_size_is_decoded_fast_too() -> None:
    data = encode(PHOTO.resize((61, 37)), "JPEG")
    np.testing.assert_array_equal(decode_picture(data, spec_of("RGB")), by_pillow(data))
