"""Photographs that are much larger than wanted, decoded at a part of their size, beside the same decoded whole."""

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from sklearn.datasets import load_sample_image

from models.images.decode import decode_image
from tests.models.images.image_files import encode, spec_of


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photo(request: pytest.FixtureRequest) -> Image.Image:
    """A photograph of 640x427 pixels."""
    return Image.fromarray(load_sample_image(request.param))


def sizes_decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    seen, decode = [], simplejpeg.decode_jpeg

    def noted(*args: Any, **options: Any) -> Any:
        pixels = decode(*args, **options)
        seen.append(pixels.shape[1::-1])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    return seen


@pytest.mark.parametrize(
    ("size", "orientation", "fields", "decoded"),
    [
        ((1280, 856), 1, {"resize": (100, 100)}, (320, 214)),
        ((1280, 856), 1, {"resize": 107, "crop": (100, 100)}, (320, 214)),
        ((1280, 856), 6, {"resize": 108, "crop": (100, 100)}, (640, 428)),
        ((4000, 2664), 8, {"resize": (100, 100)}, (500, 333)),
    ],
)
def test_a_much_larger_jpeg_is_decoded_at_a_part_of_its_size(
    photo: Image.Image,
    size: tuple[int, int],
    orientation: int,
    fields: dict[str, Any],
    decoded: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, exif = spec_of("RGB", 100, 100, **fields), Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=90, exif=exif)
    wanted = decode_image(encode(Image.open(io.BytesIO(data)), "PNG", exif=exif, compress_level=0), spec)
    seen = sizes_decoded(monkeypatch)
    found = decode_image(data, spec)
    assert set(seen) == {decoded}
    difference = np.abs(found.astype(int) - wanted)
    assert difference.mean() < 1 and np.percentile(difference, 99) <= 5


@pytest.mark.parametrize("size", [(112, 112), (398, 600), (801, 800), (1281, 1286)])
def test_any_other_jpeg_is_decoded_whole(photo: Image.Image, size: tuple[int, int]) -> None:
    data = encode(photo.resize(size), "JPEG")
    whole = Image.open(io.BytesIO(data)).resize((100, 100), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_image(data, spec_of("RGB", 100, 100)), whole)
