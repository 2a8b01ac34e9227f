"""Image bytes become the pixels that Pillow, numpy and torchvision say they should, or one of four errors."""

import io
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from models.images.decode import decode_image, preprocess_image, to_pil
from models.images.errors import EmptyImage, ImageError, ImageTooLarge, ImageUndecodable, NotAnImage
from tests.models.images.image_files import HEIGHT, WIDTH, encode, png_header, spec_of

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow documents `convert("L")`."""
    return rgb.astype(np.float64) @ (0.299, 0.587, 0.114)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_decodes_to_what_pillow_reads(form: str, mode: str) -> None:
    data = encode(to_pil(RGB), form, quality=90) if form in ("JPEG", "WEBP") else encode(to_pil(RGB), form)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB"))
    found = decode_image(data, spec_of(mode))
    assert found.dtype == np.uint8
    if mode == "RGB":
        np.testing.assert_array_equal(found, wanted)
    else:
        assert np.abs(found[..., 0] - luma(wanted)).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(form: str) -> None:
    np.testing.assert_array_equal(decode_image(encode(to_pil(RGB), form), spec_of("RGB")), RGB)
    np.testing.assert_array_equal(decode_image(encode(to_pil(GREY), form), spec_of("L"))[..., 0], GREY)
    np.testing.assert_array_equal(decode_image(encode(to_pil(GREY), form), spec_of("RGB")), np.dstack([GREY] * 3))


def test_black_and_white_becomes_0_and_255() -> None:
    data = encode(to_pil(GREY).point(lambda v: 255 * (v > 99), mode="1"))
    np.testing.assert_array_equal(decode_image(data, spec_of("L"))[..., 0], np.where(GREY > 99, 255, 0))


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (WIDTH, HEIGHT))
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    image.putdata(GREY.ravel().tolist())
    np.testing.assert_array_equal(decode_image(encode(image), spec_of("RGB")), palette[GREY])


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb_as_pillow_converts_it(form: str) -> None:
    data = encode(to_pil(RGB).convert("CMYK"), form)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, spec_of("RGB")), wanted)


def test_ycbcr_becomes_rgb() -> None:
    image = to_pil(RGB).convert("YCbCr")
    np.testing.assert_array_equal(preprocess_image(image, spec_of("RGB")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str, mode: str) -> None:
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    found = decode_image(encode(Image.fromarray(deep), form), spec_of(mode))
    assert np.abs(found - (deep / 257)[..., None]).max() < 1
    assert (found.min(), found.max()) == (0, 255)


def blended(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + np.array(background) * (1 - share)


def test_transparent_pixels_of_rgba_show_the_background() -> None:
    spec = spec_of("RGB", background=(10, 200, 90))
    found = decode_image(encode(to_pil(np.dstack([RGB, ALPHA]))), spec)
    assert np.abs(found - blended(RGB, ALPHA, spec.background)).max() <= 1


def test_transparent_pixels_of_grey_with_alpha_show_the_background() -> None:
    spec = spec_of("L", background=(77,))
    found = decode_image(encode(Image.merge("LA", [to_pil(GREY), to_pil(ALPHA)])), spec)
    assert np.abs(found - blended(GREY[..., None], ALPHA, (77,))).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_shows_the_background(form: str) -> None:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putpalette(bytes(range(256)) * 3)
    image.putdata((GREY % 4).ravel().tolist())
    found = decode_image(encode(image, form, transparency=2), spec_of("RGB", background=(10, 200, 90)))
    with Image.open(io.BytesIO(encode(image, form, transparency=2))) as read:
        colours = np.asarray(read.convert("RGBA"))
    wanted = np.where(colours[..., 3:] == 0, np.array([10, 200, 90]), colours[..., :3])
    assert (colours[..., 3] == 0).any()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_transparent_colour_of_an_image_in_the_networks_mode_shows_the_background(mode: str) -> None:
    pixels = np.where(GREY > 99, 255, 0).astype(np.uint8)
    image = to_pil(pixels).convert(mode)
    spec = spec_of(mode, background=(60,) if mode == "L" else (60, 60, 60))
    found = decode_image(encode(image, transparency=255 if mode == "L" else (255, 255, 255)), spec)
    np.testing.assert_array_equal(found[..., 0], np.where(GREY > 99, 60, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    # The Exif standard, tag 0x0112: where the stored first row and column are to be seen.
    turned = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.asarray(to_pil(RGB).resize((WIDTH, HEIGHT)))
    data = encode(to_pil(stored), "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        wanted = turned(np.asarray(image))
    np.testing.assert_array_equal(decode_image(data, spec_of("RGB", *wanted.shape[:2])), wanted)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_counts(form: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    found = decode_image(encode(frames[0], form, save_all=True, append_images=frames[1:]), spec_of("RGB"))
    assert np.abs(found - np.array([250, 0, 0])).max() <= 4  # WebP is lossy


@pytest.mark.parametrize(
    ("height", "width"), [(37, 61), (61, 37), (100, 33), (33, 101), (24, 24), (7, 13), (301, 299), (25, 24), (21, 18)]
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_shorter_side_and_centre_crop_equal_torchvision(height: int, width: int, interpolation: str) -> None:
    image = to_pil(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    spec = spec_of("RGB", 21, 18, resize=24, crop=(21, 18), interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    wanted = v2.Compose([v2.Resize(24, interpolation=mode, antialias=True), v2.CenterCrop((21, 18))])(image)
    np.testing.assert_array_equal(preprocess_image(image, spec), np.asarray(wanted))


@pytest.mark.parametrize("size", [(5, 9), (40, 31), (12, 12)])
@pytest.mark.parametrize(
    ("name", "filter_"), [("bilinear", Image.Resampling.BILINEAR), ("lanczos", Image.Resampling.LANCZOS)]
)
def test_stretching_equals_pillows_resize(size: tuple[int, int], name: str, filter_: Image.Resampling) -> None:
    found = preprocess_image(to_pil(RGB), spec_of("RGB", *size, interpolation=name))
    np.testing.assert_array_equal(found, np.asarray(to_pil(RGB).resize(size[::-1], filter_)))


@pytest.mark.parametrize(("size", "scaled"), [((60_000, 2), "7680000x256"), ((2, 60_000), "256x7680000")])
def test_a_long_narrow_image_is_refused_before_it_is_blown_up(size: tuple[int, int], scaled: str) -> None:
    spec = spec_of("L", 224, 224, resize=256, crop=(224, 224))
    with pytest.raises(
        ImageTooLarge, match=f"{size[0]}x{size[1]}, scaled to {scaled}, has 1,966 MP; the limit is 50 MP"
    ):
        decode_image(encode(Image.new("L", size)), spec)
    assert decode_image(encode(Image.new("L", size, 9)), spec_of("L", 224, 224)).max() == 9


NOISE = to_pil(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
PNG, JPEG = encode(NOISE), encode(NOISE, "JPEG", quality=95)


@pytest.mark.parametrize(
    ("data", "error", "code", "says"),
    [
        (b"", EmptyImage, "image_empty", "no bytes"),
        (b"hello, world", NotAnImage, "image_unsupported", r"12 bytes, beginning b'hello, world'.*PNG, JPEG"),
        (b"%PDF-1.7 and so on", NotAnImage, "image_unsupported", "is not an image"),
        (PNG[: len(PNG) // 2], ImageUndecodable, "image_undecodable", "PNG image is truncated or damaged"),
        (JPEG[: len(JPEG) // 2], ImageUndecodable, "image_undecodable", "JPEG image is truncated or damaged"),
        (PNG[:20], ImageUndecodable, "image_undecodable", "header is damaged"),
        (PNG[:16] + b"\xff\xff\xff\xff" + PNG[20:], ImageUndecodable, "image_undecodable", "header is damaged"),
        (JPEG[:30], ImageUndecodable, "image_undecodable", "damaged"),
        (encode(NOISE, "BMP")[:40], ImageUndecodable, "image_undecodable", "damaged"),
        (png_header(30_000, 30_000), ImageTooLarge, "image_too_large", "image has 900 MP; the limit is 50 MP"),
    ],
)
def test_unusable_bytes_are_named_for_what_they_are(data: bytes, error: type, code: str, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        decode_image(data, spec_of("RGB"))
    assert caught.value.code == code
    assert isinstance(caught.value, ImageError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [SyntaxError(1), EOFError(), struct.error(1), MemoryError(), OSError(1)])
def test_whatever_a_decoder_raises_is_a_damaged_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(
        ImageUndecodable, match=f"the PNG image is truncated or damaged: {str(error) or type(error).__name__}"
    ):
        decode_image(PNG, spec_of("RGB"))


def test_the_pixel_limit_is_inclusive() -> None:
    assert decode_image(PNG, spec_of("RGB"), limit_pixels=64 * 64).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ImageTooLarge, match=r"has 0.004096 MP; the limit is 0.004095 MP"):
        decode_image(PNG, spec_of("RGB"), limit_pixels=64 * 64 - 1)


def test_a_small_limit_does_not_limit_others_in_the_process() -> None:
    """Pillow has one setting for all who open images."""
    for data in (PNG, JPEG, encode(NOISE, "GIF")):
        with pytest.raises(ImageTooLarge):
            decode_image(data, spec_of("RGB"), limit_pixels=16)
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (64, 64)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_decode_or_raise_an_image_error(form: str) -> None:
    data, random, refused = encode(NOISE, form), np.random.default_rng(2), 0
    for _ in range(150):
        damaged = bytearray(data)
        start = 0 if random.random() < 0.3 else len(data) // 3  # headers too
        for place in random.integers(start, min(len(data), start + 200), size=random.integers(1, 12)):
            damaged[place] = random.integers(0, 256)
        if random.random() < 0.3:
            del damaged[random.integers(1, len(data)) :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what it reads on through
            try:
                assert decode_image(bytes(damaged), spec_of("RGB")).shape == (HEIGHT, WIDTH, 3)
            except ImageError as error:
                assert error.code in ("image_unsupported", "image_undecodable", "image_too_large")
                refused += 1
    assert refused > 10


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_arrays_and_images_are_the_same_pixels(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    found = preprocess_image(to_pil(pixels), spec_of("RGB" if shape[-1] == 3 else "L", 5, 7))
    np.testing.assert_array_equal(found, pixels.reshape(5, 7, -1))
