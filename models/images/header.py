"""The header of an encoded image: other formats, and images over the pixel limit, are refused before decoding."""

import io
import re
import warnings

from PIL import (  # the plug-ins register their formats when imported; Image.open opens no others
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from models.images.errors import EmptyImage, ImageError, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode
from models.images.input_spec import InputSpec
from models.images.jpeg import JpegHeader, jpeg_header
from models.images.png import SIGNATURE, without_metadata

FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        AvifImagePlugin.AvifImageFile,
    )
)
SUFFIXES = frozenset(
    (".jfif", ".mpo", *(suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS))
)
# It is about metadata that do not matter here; damaged pixels are errors.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
# Our own limit is checked after the header is read.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

DEFAULT_LIMIT_PIXELS = 50_000_000
TILE_WIDTH, TILE_HEIGHT, BANDS = 322, 323, 277  # TIFF tags
MOST_BANDS = 64  # more are a damaged header

# A JPEG is decoded at 1/2, 1/4 or 1/8 scale if the result is at least this many times the target size. 12 megapixels
# take a quarter of the time, and 99 % of the network's input pixels stay within 5 of 255 levels.
DRAFT_OVERSAMPLING = 2
PARTS = (8, 4, 2)
LARGER = 8  # times the limit that a JPEG decoded at a part of its size may have: all of it is read

SCANS = 16  # of a JPEG as large as the limit: each costs time for every pixel; smaller ones may have more
PLAIN_BYTES = 2**20  # of a PPM file with its numbers written out, which Python reads
_PLAIN_PPM = re.compile(rb"P[123]\s")
_HEIF = re.compile(rb"(?s)....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)")


def open_image(data: bytes, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS, spec: InputSpec | None = None) -> Image.Image:
    """Reads the header of an encoded image; `models.images.decode.decode_opened` reads its pixels.

    Args:
        data: a whole file in one of `FORMATS`.
        limit_pixels: maximum width x height.
        spec: a JPEG that is decoded at a part of its size for this input may be larger by as much.

    Raises:
        ImageError: empty, of another format, over the limit, or with a damaged header.
    """
    if not data:
        raise EmptyImage("the image has no bytes")
    jpeg = jpeg_header(data)
    if jpeg is not None:
        check_jpeg(jpeg, limit_pixels, part_of(spec, jpeg.height, jpeg.width))
        try:  # not by Image.open, whose own limit such a file may exceed; opening it allocates nothing
            return JpegImagePlugin.jpeg_factory(io.BytesIO(data))
        except Exception as error:
            raise _refusal(data, error) from None
    if _PLAIN_PPM.match(data) and len(data) > PLAIN_BYTES:
        raise ImageTooLarge(f"a PPM file of plain numbers may have {PLAIN_BYTES:,} bytes; send it as binary")
    image = _opened(data, limit_pixels)
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # TIFF: its decoder allocates a whole tile however small the image is
    tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_HEIGHT, 1)
    for what, pixels in ((f"image of {width}x{height}", width * height), ("tile of the image", tile)):
        if pixels > limit_pixels:
            raise ImageTooLarge(over_limit(what, pixels, limit_pixels))
    return image


def _opened(data: bytes, limit_pixels: int) -> Image.Image:
    # Some plug-ins allocate whole frames while opening, and only this limits them. It is one setting for the process,
    # so that it is never made smaller than whoever else opens images expects.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit_pixels)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(str(error).partition("(")[2].partition(" ")[0])
        raise ImageTooLarge(over_limit("image", pixels, limit_pixels)) from None
    except Exception as error:  # exceptions for damaged headers are undocumented and vary by format
        plain = without_metadata(data) if data.startswith(SIGNATURE) else data
        if len(plain) < len(data):  # long texts and damaged colour profiles make Pillow refuse the picture
            return _opened(plain, limit_pixels)
        raise _refusal(data, error) from None


def _refusal(data: bytes, error: Exception) -> ImageError:
    if _HEIF.match(data):
        return NotAnImage(
            "HEIC images are not read; convert it to JPEG (`magick photo.heic photo.jpg`), or let the phone save "
            'JPEG ("Most Compatible")'
        )
    if not isinstance(error, UnidentifiedImageError):
        return ImageUndecodable(f"the image header is damaged: {reason(error)}")
    if bands := _tiff_bands(data):
        return UnsupportedMode(f"the TIFF image has {bands} bands; 1, 3 or 4 are read")
    if has_signature(data):
        return ImageUndecodable("the image header is damaged")
    return NotAnImage(f"{_describe(data)} is not an image; known formats are {', '.join(FORMATS)}")


def _tiff_bands(data: bytes) -> int | None:
    """The number of bands of a TIFF file that Pillow does not read for it; None for all others."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next or 0)
        tags.load(file)
        bands = int(tags.get(BANDS, 1))
    except Exception:  # the header is damaged indeed
        return None
    return bands if bands not in (1, 3, 4) and bands <= MOST_BANDS else None


def part_of(spec: InputSpec | None, height: int, width: int) -> int:
    """1, or the part of its sides, 2, 4 or 8, at which a JPEG is decoded; see `DRAFT_OVERSAMPLING`."""
    if spec is None:
        return 1
    wanted = DRAFT_OVERSAMPLING * (spec.resize if isinstance(spec.resize, int) else max(spec.resize))
    for part in PARTS:
        # A size that does not divide would be rounded up, which stretches the picture.
        if width % part == 0 and height % part == 0 and min(width, height) // part >= wanted:
            return part
    return 1


def check_jpeg(jpeg: JpegHeader, limit_pixels: int, part: int) -> None:
    """Raises ImageTooLarge if decoding would take too much memory or time: the limit is for the pixels decoded."""
    pixels = jpeg.height * jpeg.width
    decoded = pixels if jpeg.progressive else pixels // part**2  # progressive: all coefficients are kept meanwhile
    if decoded > limit_pixels or pixels > LARGER * limit_pixels:
        raise ImageTooLarge(over_limit(f"image of {jpeg.width}x{jpeg.height}", pixels, limit_pixels))
    if jpeg.scans * pixels > SCANS * max(limit_pixels, pixels):
        raise ImageTooLarge(
            f"image of {jpeg.width}x{jpeg.height} has {jpeg.scans} scans; the limit is "
            f"{max(SCANS, SCANS * limit_pixels // max(1, pixels))} for its size"
        )


def has_signature(data: bytes) -> bool:
    """True if the first bytes are those of a known format."""
    return any(accepts is not None and accepts(data[:16]) for _, accepts in (Image.OPEN[name] for name in FORMATS))


def over_limit(what: str, pixels: int, limit: int) -> str:
    """The sentence that compares a number of pixels with a limit, in megapixels."""
    return f"{what} has {pixels / 1e6:,.4g} MP; the limit is {limit / 1e6:,.4g} MP"


def _describe(data: bytes) -> str:
    return f"the body ({len(data)} bytes, beginning {data[:12]!r})"


def reason(error: Exception) -> str:
    """The decoder's message, or the exception's name if it is empty."""
    return str(error) or type(error).__name__
