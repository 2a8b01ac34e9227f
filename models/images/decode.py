"""From image bytes to the uint8 array a network takes; the same function in training, evaluation, export and serving.

Nothing here needs torch. Scaling to [0, 1] and mean/std are part of the exported graph (`models.images.normalize`), so
the arrays that leave this file are plain uint8 pixels, height x width x channels.
"""

import io
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import (  # the plug-ins register their formats when imported, and Image.open knows only those
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from models.errors import UserError
from models.images.errors import (
    EmptyImage,
    ImageError,
    ImageTooLarge,
    ImageTooNarrow,
    ImageUndecodable,
    NotAnImage,
    UnsupportedMode,
)

Pixels = npt.NDArray[np.uint8]

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
# A JPEG is decoded at a half, a quarter or an eighth where that leaves this many times the target size. Twelve
# megapixels take a quarter of the time, and 99 % of the network's input pixels stay within 5 of 255 levels.
DRAFT_OVERSAMPLING = 2
ORIENTATION = 0x0112  # the EXIF tag
TILE_WIDTH, TILE_HEIGHT = 322, 323  # TIFF tags

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """A network's input: size and mode of its images, how they are resized, and how they are normalised.

    `resize` is either (height, width), which stretches, or one number, to which the shorter side is scaled with the
    aspect kept; `crop` then cuts (height, width) out of the centre. Together they must give `height` x `width`.
    `mean` and `std` apply to values scaled to [0, 1], one number per channel. `background` (0-255, one per channel)
    is what shows through transparent pixels.

    Raises:
        ValueError: the fields do not fit each other; the message quotes them.
    """

    mode: Literal["L", "RGB"]
    height: int
    width: int
    resize: tuple[int, int] | int
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    background: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.mode not in ("L", "RGB"):
            raise UserError(f"input mode is {self.mode!r}; known are 'L' (grey) and 'RGB'")
        if self.height < 1 or self.width < 1:
            raise UserError(f"input is {self.height}x{self.width} (height x width); both must be at least 1")
        if self.interpolation not in _INTERPOLATIONS:
            raise UserError(f"interpolation is {self.interpolation!r}; known are {', '.join(_INTERPOLATIONS)}")
        for name in ("background", "mean", "std"):
            if (count := len(getattr(self, name))) != self.channels:
                raise UserError(f"{name} has {count} values; mode {self.mode} needs {self.channels}")
        if min(self.std) <= 0:
            raise UserError(f"std is {self.std}; every value must be above 0")
        size = (self.height, self.width)
        if (self.crop or self.resize) != size:
            raise UserError(f"resize {self.resize} and crop {self.crop} do not end at {size[0]}x{size[1]}")
        resized = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if resized[0] < size[0] or resized[1] < size[1]:
            raise UserError(f"resize {self.resize} is smaller than the crop {size[0]}x{size[1]}")

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what `preprocess_image` returns."""
        return self.height, self.width, self.channels

    def to_json(self) -> dict[str, Any]:
        """The keys `input` and `preprocess` as they stand in config.json and manifest.json."""
        fields = {**asdict(self), "antialias": True}  # a constant; Pillow always smooths when it shrinks
        return {"input": {key: fields.pop(key) for key in ("mode", "height", "width")}, "preprocess": fields}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "InputSpec":
        """Reads what `to_json` wrote; unknown keys fail.

        Raises:
            ValueError: a key is missing, unknown or does not fit.
        """
        fields: dict[str, Any] = {**config["input"], **config["preprocess"]}
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        if not fields.pop("antialias", True):
            raise UserError("antialias is false; Pillow, which resizes here, always smooths when it shrinks")
        try:
            return cls(**fields)
        except TypeError as error:
            raise UserError(f"input specification: {error}") from None


def decode_image(data: bytes, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Pixels:
    """Decodes one encoded image and brings it to the size and mode of `spec`: uint8 (height, width, channels).

    Only the first of several frames is read; the EXIF orientation is applied, colour profiles are not.

    Args:
        data: a whole file in one of `FORMATS`.
        limit_pixels: larger images (width x height, read from the header) are refused before decoding.

    Raises:
        ImageError: one of `models.images.errors`.
    """
    with open_image(data, limit_pixels=limit_pixels) as image:
        return decode_opened(image, spec)


def open_image(data: bytes, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Image.Image:
    """Reads the header of an encoded image; the pixels are read by `decode_opened`."""
    if not data:
        raise EmptyImage("the image has no bytes")
    # One number for the whole process, but some plug-ins fill whole frames while they open: only this stops them.
    Image.MAX_IMAGE_PIXELS = limit_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            _over_limit("image", int(str(error).partition("(")[2].partition(" ")[0]), limit_pixels)
        ) from None
    except UnidentifiedImageError:
        if _has_known_signature(data):
            raise ImageUndecodable("the image header is damaged") from None
        raise NotAnImage(f"{_describe(data)} is not an image; known formats are {', '.join(FORMATS)}") from None
    except Exception as error:  # what a decoder raises for damaged headers is not documented and varies by format
        raise ImageUndecodable(f"the image header is damaged: {_reason(error)}") from None
    width, height = image.size
    tags = getattr(image, "tag_v2", {})  # of TIFF, whose decoder fills a whole tile however small the image is
    tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_HEIGHT, 1)
    for what, pixels in ((f"image of {width}x{height}", width * height), ("tile of the image", tile)):
        if pixels > limit_pixels:
            raise ImageTooLarge(_over_limit(what, pixels, limit_pixels))
    return image


def decode_opened(image: Image.Image, spec: InputSpec) -> Pixels:
    """Decodes an image from `open_image` and brings it to the size and mode of `spec`."""
    try:
        return preprocess_image(image, spec)
    except ImageError:
        raise
    except Exception as error:  # OSError, ValueError, SyntaxError, EOFError, struct.error: it varies by format
        raise ImageUndecodable(f"the {image.format} image is truncated or damaged: {_reason(error)}") from None


def preprocess_image(image: Image.Image, spec: InputSpec) -> Pixels:
    """Brings a Pillow image of any mode and size to the mode and size of `spec`: uint8 (height, width, channels).

    A JPEG that is much larger is decoded at a part of its size, see `DRAFT_OVERSAMPLING`.

    Raises:
        ImageTooNarrow: scaling its shorter side would pass `DEFAULT_LIMIT_PIXELS`.
    """
    if image.format == "JPEG":
        _draft(image, spec)
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode != spec.mode or image.has_transparency_data:
        image = to_mode(image, spec.mode, spec.background)
    if image.size != (spec.width, spec.height) or spec.crop is not None:
        image = _to_size(image, spec)
    return np.asarray(image).reshape(spec.shape)


def to_pil(pixels: Pixels) -> Image.Image:
    """A Pillow image of a uint8 array (H, W), (H, W, 1) or (H, W, 3)."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _draft(image: Image.Image, spec: InputSpec) -> None:
    width, height = image.size
    wanted = DRAFT_OVERSAMPLING * (
        spec.resize if isinstance(spec.resize, int) else max(spec.resize)
    )  # however it is turned
    for part in (8, 4, 2):
        # What does not divide would be rounded up, and the picture stretched by what was added.
        if width % part == 0 and height % part == 0 and min(width, height) // part >= wanted:
            image.draft(None, (width // part, height // part))
            return


def to_mode(image: Image.Image, mode: Literal["L", "RGB"], background: tuple[int, ...]) -> Image.Image:
    """The image as grey or RGB: 16 bits scaled, what is transparent over `background`, one level a channel.

    Raises:
        UnsupportedMode: floating point, or CIE L*a*b*.
    """
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would clip at 255 what should be scaled
        levels = np.asarray(image)
        if levels.dtype != np.uint16:
            levels = levels.clip(0, 65535).astype(np.uint16)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert(mode)
    if image.mode in ("F", "LAB"):
        raise UnsupportedMode(f"the {image.format} image has pixels of the mode {image.mode}; send grey or RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        red, green, blue = background * (3 // len(background))
        backdrop = Image.new("RGBA", image.size, (red, green, blue, 255))
        image = Image.alpha_composite(backdrop, image)
    return image.convert(mode)


def _to_size(image: Image.Image, spec: InputSpec) -> Image.Image:
    width, height = image.size
    if isinstance(spec.resize, int):  # lengths and offsets are rounded as torchvision's Resize and CenterCrop do
        longer = int(spec.resize * max(width, height) / min(width, height))
        target_height, target_width = (spec.resize, longer) if height <= width else (longer, spec.resize)
    else:
        target_height, target_width = spec.resize
    if target_width * target_height > DEFAULT_LIMIT_PIXELS:  # a long narrow image would take gigabytes on the way
        what = f"image of {width}x{height}, scaled to {target_width}x{target_height},"
        raise ImageTooNarrow(_over_limit(what, target_width * target_height, DEFAULT_LIMIT_PIXELS))
    image = image.resize((target_width, target_height), _INTERPOLATIONS[spec.interpolation])
    if spec.crop is not None:
        left, top = round((target_width - spec.crop[1]) / 2), round((target_height - spec.crop[0]) / 2)
        image = image.crop((left, top, left + spec.crop[1], top + spec.crop[0]))
    return image


def _over_limit(what: str, pixels: int, limit: int) -> str:
    return f"{what} has {pixels / 1e6:,.4g} MP; the limit is {limit / 1e6:,.4g} MP"


def _has_known_signature(data: bytes) -> bool:
    return any(accepts is not None and accepts(data[:16]) for _, accepts in (Image.OPEN[name] for name in FORMATS))


def _describe(data: bytes) -> str:
    return f"the body ({len(data)} bytes, beginning {data[:12]!r})"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


Floats = npt.NDArray[np.float32]
