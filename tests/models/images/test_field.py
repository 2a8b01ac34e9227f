"""Files as phones, scanners, browsers and other programs write them: sound pixels are read, whatever is beside them."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, PngImagePlugin
from sklearn.datasets import load_sample_image

from models.images.decode import decode_image, decode_picture
from models.images.errors import ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode
from models.images.header import SUFFIXES, open_image
from models.images.jpeg import jpeg_header
from tests.models.images.image_files import chunk, encode, spec_of

PHOTO = Image.fromarray(load_sample_image("china.jpg"))
SMALL = PHOTO.resize((60, 40))
SPEC = spec_of("RGB", 40, 60)
ODD = b"MM\0*\0\0\0\x08\0\2" + bytes.fromhex("011200030000000100060000011a00020000000461626300") + bytes(4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"garbage!", b"", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"Exif\0\0Exif\0\0"]
)
def test_damaged_exif_does_not_matter(form: str, exif: bytes) -> None:
    plain = decode_image(encode(SMALL, form), SPEC)
    blocks = exif if form == "WEBP" else b"Exif\0\0" + exif
    np.testing.assert_array_equal(decode_image(encode(SMALL, form, exif=blocks), SPEC), plain)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_orientation_beside_an_odd_tag_is_applied(form: str) -> None:
    """Tag 0x011A should be a fraction and is a text, which Pillow cannot write back."""
    block = ODD if form == "WEBP" else b"Exif\0\0" + ODD
    found = decode_image(encode(SMALL, form, exif=block), spec_of("RGB", 60, 40))
    turned = np.rot90(decode_image(encode(SMALL, form), SPEC), -1)
    np.testing.assert_array_equal(found, turned)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"abCd", b"tIME", b"vpAg"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"key\0\0" + bytes(3_000_000)])
def test_no_text_or_profile_makes_a_png_unreadable(kind: bytes, content: bytes) -> None:
    data = encode(SMALL)
    found = decode_image(data[:33] + chunk(kind, content) + data[33:], SPEC)
    np.testing.assert_array_equal(found, np.asarray(SMALL))


def test_packed_texts_and_profiles_of_megabytes_are_passed_over() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 80_000_000, zip=True)
    for options in ({"pnginfo": info}, {"icc_profile": bytes(80_000_000)}):
        data = encode(SMALL, **options)
        assert len(data) < 200_000
        np.testing.assert_array_equal(decode_image(data, SPEC), np.asarray(SMALL))


def test_a_transparent_colour_stays_where_texts_are_removed() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    data = encode(image, transparency=9)
    data = data[:33] + chunk(b"zTXt", b"\xff" * 5_000_000) + data[33:]
    found = decode_image(data, spec_of("L", 8, 8, background=(200,)))
    assert found[1, 1, 0] == 200


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_needs_no_end_marker_but_all_its_pixels(options: dict[str, int], mode: str) -> None:
    data = encode(PHOTO.resize((200, 150)).convert(mode), "JPEG", **options)
    spec = spec_of("RGB", 150, 200)
    np.testing.assert_array_equal(decode_image(data[:-2], spec), decode_image(data, spec))
    for missing in (40, 400, len(data) // 2):
        with pytest.raises(ImageUndecodable, match="truncated"):
            decode_image(data[:-missing], spec)


def test_a_phones_mpo_is_decoded_as_the_jpeg_it_begins_with() -> None:
    photo = PHOTO.resize((1280, 848))
    mpo = encode(photo, "MPO", save_all=True, append_images=[photo.resize((64, 48))], quality=90)
    with Image.open(io.BytesIO(mpo)) as image:
        assert image.format == "MPO"
    spec = spec_of("RGB", 100, 100)
    np.testing.assert_array_equal(decode_image(mpo, spec), decode_image(encode(photo, "JPEG", quality=90), spec))


def test_cmyk_without_adobes_marker_looks_as_in_browsers() -> None:
    """They take all CMYK of JPEGs as inverted, which the marker states for Photoshop's."""
    picture = SMALL.convert("CMYK")
    marked = encode(picture, "JPEG", quality=95)
    plain = bytearray(encode(ImageChops.invert(picture), "JPEG", quality=95))
    at = plain.index(b"\xff\xee")
    del plain[at : at + 2 + struct.unpack_from(">H", plain, at + 2)[0]]
    difference = decode_image(bytes(plain), SPEC).astype(int) - decode_image(marked, SPEC)
    with Image.open(io.BytesIO(plain)) as image:
        assert "adobe" not in image.info
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "PPM"), ("RGB", "PPM"), ("1", "PPM"), ("L", "AVIF"), ("RGB", "AVIF"), ("RGBA", "AVIF")]
)
def test_further_formats(mode: str, form: str) -> None:
    data = encode(SMALL.convert(mode), form)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, SPEC), wanted)


def test_a_pgm_of_16_bits_is_scaled_by_its_largest_level() -> None:
    levels = np.arange(0, 4096, 64, dtype=">u2").reshape(8, 8)
    found = decode_image(b"P5\n8 8\n4095\n" + levels.tobytes(), spec_of("L", 8, 8))[..., 0]
    assert np.abs(found - levels / 4095 * 255).max() <= 1


def test_suffixes_are_those_of_the_formats() -> None:
    assert {".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".tif", ".ppm", ".pgm", ".pbm", ".avif"} <= SUFFIXES
    assert not {".heic", ".jp2", ".pdf", ".ico", ".psd"} & SUFFIXES


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_heic_says_how_to_convert_it(brand: bytes) -> None:
    with pytest.raises(NotAnImage, match="HEIC images are not read; convert") as caught:
        decode_image(b"\0\0\0\x18ftyp" + brand + bytes(40), SPEC)
    assert "b'" not in str(caught.value)


def test_bands_that_no_picture_has_are_named() -> None:
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 0, 277: 5, 278: 8, 279: 320}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    with pytest.raises(UnsupportedMode, match="5 bands; 1, 3 or 4"):
        decode_image(b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + bytes(320), SPEC)


def big_jpeg(width: int, height: int, **options: object) -> bytes:
    return encode(Image.new("RGB", (width, height), (9, 99, 199)), "JPEG", **options)


def test_the_limit_counts_the_pixels_that_are_decoded() -> None:
    data, spec = big_jpeg(12_000, 9_000), spec_of("RGB", 224, 224)
    found = decode_image(data, spec)
    assert np.abs(found - np.array([9, 99, 199])).max() <= 2
    with pytest.raises(ImageTooLarge, match="12000x9000 has 108 MP; the limit is 50 MP"):
        decode_picture(data, spec)
    with pytest.raises(ImageTooLarge, match="108 MP; the limit is 1 MP"):
        decode_image(data, spec, limit_pixels=1_000_000)
    with open_image(data, spec=spec) as image:
        assert image.size == (12_000, 9_000)


def test_a_progressive_jpeg_counts_whole() -> None:
    """All its coefficients are in memory while it is decoded."""
    with pytest.raises(ImageTooLarge, match="108 MP"):
        decode_image(big_jpeg(12_000, 9_000, progressive=True), spec_of("RGB", 224, 224))


def with_scans(data: bytes, times: int, junk: bytes = b"") -> bytes:
    """The last scan repeated; decoders pass over bytes between markers."""
    scan = data.rfind(b"\xff\xda")
    scan = max(data.rfind(b"\xff\xc4", 0, scan), 0)
    frame = data.index(b"\xff\xc2")
    return data[:frame] + junk + data[frame:scan] + data[scan:-2] * times + data[-2:]


@pytest.mark.parametrize("junk", [b"", b"\0" * 20, b"\xff\xff\xff", b"\xff\x00"])
def test_scans_are_bounded_by_the_work_they_make(junk: bytes) -> None:
    large = big_jpeg(6_000, 5_000, progressive=True)
    began = time.process_time()
    with pytest.raises(ImageTooLarge, match=r"6000x5000 has \d+ scans; the limit is 26"):
        decode_image(with_scans(large, 500, junk), SPEC)
    assert time.process_time() - began < 5
    header = jpeg_header(large)
    assert header is not None and header.scans == 10
    assert decode_image(large, SPEC).shape == (40, 60, 3)
    assert decode_image(with_scans(encode(SMALL, "JPEG", progressive=True), 100), SPEC).shape == (40, 60, 3)


def test_a_large_ppm_in_plain_numbers_is_refused() -> None:
    """Python would read each of them."""
    with pytest.raises(ImageTooLarge, match="plain numbers"):
        decode_image(b"P2\n2000 1000\n255\n" + b"7 " * 2_000_000, SPEC)
    small = b"P3\n2 1\n255\n1 2 3 4 5 6\n"
    np.testing.assert_array_equal(decode_image(small, spec_of("RGB", 1, 2)), [[[1, 2, 3], [4, 5, 6]]])


CASES = Path(__file__).parents[4] / "shared/cases"


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")
@pytest.mark.parametrize("name", ["02-exif.jpg", "02-exif.png", "02-turned.jpg", "13-x.ppm", "13-x.avif", "18-icc.png",
                                  "18-text.png", "19-noeoi.jpg", "26-white16.tif", "41-plain.jpg"])  # fmt: skip
def test_cases_from_the_field_are_read(name: str) -> None:
    found = decode_image((CASES / name).read_bytes(), spec_of("RGB", 32, 32))
    assert found.std() > 5
