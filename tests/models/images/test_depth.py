"""Levels of more than 8 bits, by the scale that a file states; and the note about those that state a wrong one."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from models.images.decode import decode_image, preprocess_image
from models.images.errors import ImageUndecodable
from models.images.png import SIGNATURE
from tests.models.images.image_files import chunk, encode, spec_of

SIDE = 8
RAMP = np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE)


def stored(bits: int) -> np.ndarray:
    """The ramp in levels of so many bits."""
    return (RAMP / 255 * (2**bits - 1)).round().astype(np.uint16)


def png16(levels: np.ndarray, *extra: bytes) -> bytes:
    data = encode(Image.fromarray(levels.astype(np.uint16)))
    return data[:33] + b"".join(extra) + data[33:]


def sbit(bits: int) -> bytes:
    return chunk(b"sBIT", bytes([bits]))


def tiff(levels: np.ndarray, tags: dict[int, int]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    return encode(Image.fromarray(levels), "TIFF", tiffinfo=info)


def decoded(data: bytes) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    return decode_image(data, spec_of("L", SIDE, SIDE), notes=notes)[..., 0], notes


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_sbit_gives_the_scale_of_levels_that_are_stored_as_they_are(bits: int) -> None:
    found, notes = decoded(png16(stored(bits), sbit(bits)))
    assert np.abs(found - RAMP).max() < 1.5
    assert notes == []


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("repeat", [False, True])
def test_levels_in_the_upper_bits_are_on_the_whole_scale_already(bits: int, repeat: bool) -> None:
    """As the PNG specification has it, dark pictures included."""
    for levels in (stored(bits), stored(bits) >> 4):
        moved = levels << 16 - bits
        if repeat:
            moved = moved | moved >> bits
        found, _ = decoded(png16(moved, sbit(bits)))
        np.testing.assert_array_equal(found, moved // 257)


@pytest.mark.parametrize("maximum", [1000, 4095, 16383])
def test_a_tiffs_largest_level_is_white(maximum: int) -> None:
    levels = (RAMP / 255 * maximum).astype(np.uint16)
    found, notes = decoded(tiff(levels, {281: maximum}))
    assert np.abs(found - RAMP).max() < 1.5
    assert notes == []


def test_twelve_bits_of_a_tiff_are_scaled_by_themselves() -> None:
    """Two levels in three bytes, as TIFF 6.0 packs them."""
    pairs = stored(12).reshape(-1, 2)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())
    tags = {256: SIDE, 257: SIDE, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: SIDE, 279: len(packed)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    found, _ = decoded(b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + packed)
    assert np.abs(found - RAMP).max() < 1.5


def test_32_bits_are_scaled_too() -> None:
    levels = (RAMP / 255 * (2**31 - 1)).astype(np.int32)  # Pillow writes signed ones
    found, _ = decoded(encode(Image.fromarray(levels), "TIFF"))
    assert np.abs(found - RAMP).max() < 1.5


@pytest.mark.parametrize("levels", [stored(12), stored(8), stored(9)])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_levels_that_nothing_explains_are_noted(levels: np.ndarray, form: str) -> None:
    data = encode(Image.fromarray(levels), form)
    found, notes = decoded(data)
    assert len(notes) == 1 and f"reach {levels.max():,} of " in notes[0]
    assert found.max() < 16


@pytest.mark.parametrize("levels", [stored(16), stored(13), np.zeros((SIDE, SIDE), np.uint16)])
def test_ordinary_levels_are_not_noted(levels: np.ndarray) -> None:
    assert decoded(png16(levels))[1] == []
    assert decoded(encode(Image.fromarray(RAMP.astype(np.uint8) // 20)))[1] == []


@pytest.mark.parametrize("form", ["WEBP", "BMP", "GIF", "JPEG", "AVIF", "PPM", "TIFF", "PNG"])
def test_dark_pictures_of_8_bits_are_not_noted(form: str) -> None:
    notes: list[str] = []
    decode_image(encode(Image.new("RGB", (300, 300), (9, 9, 9)), form), spec_of("RGB", SIDE, SIDE), notes=notes)
    assert notes == []


def colours16(levels: np.ndarray, kind: int, *extra: bytes) -> bytes:
    """A PNG of 16-bit levels (H, W, bands), of a colour type; Pillow writes none."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in levels.astype(">u2"))
    return SIGNATURE + b"".join(
        (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def test_dark_colours_of_16_bits_are_noted() -> None:
    notes: list[str] = []
    decode_image(colours16(np.stack([stored(12)] * 3, axis=2), 2), spec_of("RGB", SIDE, SIDE), notes=notes)
    assert "nearly black" in notes[0]


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind, bands", [(2, 3), (6, 4)])
def test_sbit_gives_the_scale_of_colours_too(bits: int, kind: int, bands: int) -> None:
    levels = np.stack([stored(bits), stored(bits)[::-1], stored(bits).T], axis=2)
    wanted = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    if bands == 4:  # an opaque and a transparent half, over white
        alpha = np.full((SIDE, SIDE, 1), 2**bits - 1)
        alpha[: SIDE // 2] = 0
        levels = np.concatenate([levels, alpha], axis=2)
        wanted[: SIDE // 2] = 255
    notes: list[str] = []
    data = colours16(levels, kind, chunk(b"sBIT", bytes([bits - 1, *[bits] * (bands - 1)])))
    found = decode_image(data, spec_of("RGB", SIDE, SIDE, background=(255, 255, 255)), notes=notes)
    assert np.abs(found - wanted).max() < 1.5
    assert notes == []


def test_colours_in_the_upper_bits_stay_as_they_are() -> None:
    levels = np.stack([stored(12) << 4] * 3, axis=2)
    found = decode_image(colours16(levels, 2, chunk(b"sBIT", bytes([12] * 3))), spec_of("RGB", SIDE, SIDE))
    np.testing.assert_array_equal(found, levels >> 8)


def test_a_transparent_colour_of_stated_bits_shows_the_background() -> None:
    levels = np.full((SIDE, SIDE, 3), 4095)
    levels[2:6, 2:6] = (1, 2, 3)
    clear = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    data = colours16(levels, 2, chunk(b"sBIT", bytes([12] * 3)), clear)
    found = decode_image(data, spec_of("RGB", SIDE, SIDE, background=(7, 8, 9)))
    np.testing.assert_array_equal(found, np.where(levels == 4095, 255, (7, 8, 9)))


def test_a_damaged_png_of_deep_colours_is_refused() -> None:
    data = colours16(np.stack([stored(12)] * 3, axis=2), 2, chunk(b"sBIT", bytes([12] * 3)))
    with pytest.raises(ImageUndecodable, match="the PNG image is truncated or damaged"):
        decode_image(data[:-30], spec_of("RGB", SIDE, SIDE))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned_round(bits: int) -> None:
    levels = stored(bits).astype(np.uint8 if bits == 8 else np.uint16)
    plain = encode(Image.fromarray(levels), "TIFF")
    tag = bytes.fromhex("060103000100000001")
    assert plain.count(tag) == 1
    found, _ = decoded(plain.replace(tag, tag[:8] + b"\0"))
    assert np.abs(found - (255 - RAMP)).max() <= 1


@pytest.mark.parametrize("deep", [False, True])
def test_a_transparent_level_shows_the_background_at_any_depth(deep: bool) -> None:
    levels = np.zeros((SIDE, SIDE), np.uint16)
    levels[2:6, 2:6] = 40_000
    image = Image.fromarray(levels if deep else (levels // 257).astype(np.uint8))
    found = decode_image(encode(image, transparency=0), spec_of("L", SIDE, SIDE, background=(255,)))[..., 0]
    np.testing.assert_array_equal(found, np.where(levels == 0, 255, 40_000 // 257))


def test_dark_colours_of_a_ppm_are_noted() -> None:
    levels = np.repeat(stored(12)[..., np.newaxis], 3, axis=2).astype(">u2").tobytes()
    for maximum, count in ((65535, 1), (4095, 0)):
        notes: list[str] = []
        decode_image(b"P6\n8 8\n%d\n" % maximum + levels, spec_of("RGB", SIDE, SIDE), notes=notes)
        assert len(notes) == count


def test_pillow_images_are_scaled_as_files_are() -> None:
    with Image.open(io.BytesIO(png16(stored(16)))) as image:
        np.testing.assert_array_equal(
            preprocess_image(image, spec_of("L", SIDE, SIDE)), decode_image(png16(stored(16)), spec_of("L", SIDE, SIDE))
        )
