"""The header of an encoded image: other formats, and images over the pixel limit, are refused before decoding."""

import io

from PIL import (  # the plug-ins register their formats when imported; Image.open opens no others
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from models.images.errors import EmptyImage, ImageTooLarge, ImageUndecodable, NotAnImage

FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
DEFAULT_LIMIT_PIXELS = 50_000_000
TILE_WIDTH, TILE_HEIGHT = 322, 323  # TIFF tags


def open_image(data: bytes, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Image.Image:
    """Reads the header of an encoded image; `models.images.decode.decode_opened` reads its pixels.

    Args:
        data: a whole file in one of `FORMATS`.
        limit_pixels: maximum width x height.

    Raises:
        ImageError: empty, of another format, over the limit, or with a damaged header.
    """
    if not data:
        raise EmptyImage("the image has no bytes")
    # A process-wide setting, but some plug-ins allocate whole frames while opening, and only this limits them.
    Image.MAX_IMAGE_PIXELS = limit_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            over_limit("image", int(str(error).partition("(")[2].partition(" ")[0]), limit_pixels)
        ) from None
    except UnidentifiedImageError:
        if _has_known_signature(data):
            raise ImageUndecodable("the image header is damaged") from None
        raise NotAnImage(f"{_describe(data)} is not an image; known formats are {', '.join(FORMATS)}") from None
    except Exception as error:  # exceptions for damaged headers are undocumented and vary by format
        raise ImageUndecodable(f"the image header is damaged: {reason(error)}") from None
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # TIFF: its decoder allocates a whole tile however small the image is
    tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_HEIGHT, 1)
    for what, pixels in ((f"image of {width}x{height}", width * height), ("tile of the image", tile)):
        if pixels > limit_pixels:
            raise ImageTooLarge(over_limit(what, pixels, limit_pixels))
    return image


def over_limit(what: str, pixels: int, limit: int) -> str:
    """The sentence that compares a number of pixels with a limit, in megapixels."""
    return f"{what} has {pixels / 1e6:,.4g} MP; the limit is {limit / 1e6:,.4g} MP"


def _has_known_signature(data: bytes) -> bool:
    return any(accepts is not None and accepts(data[:16]) for _, accepts in (Image.OPEN[name] for name in FORMATS))


def _describe(data: bytes) -> str:
    return f"the body ({len(data)} bytes, beginning {data[:12]!r})"


def reason(error: Exception) -> str:
    """The decoder's message, or the exception's name if it is empty."""
    return str(error) or type(error).__name__
