"""The input specification: size, mode, resizing and normalisation of a network's images."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from PIL import Image

from models.errors import UserError

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """A network's input: size and mode of its images, resizing, and normalisation.

    `resize` is either (height, width), which stretches, or one number, to which the shorter side is scaled, keeping
    the aspect ratio; `crop` then cuts (height, width) from the centre. Together they must give `height` x `width`.
    `mean` and `std` apply to values scaled to [0, 1], one number per channel. `background` (0-255, one per channel)
    shows behind transparent pixels.

    Raises:
        ValueError: the fields are inconsistent; the message quotes them.
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
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation is {self.interpolation!r}; known are {', '.join(INTERPOLATIONS)}")
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
        """(height, width, channels) of the result of `preprocess_image`."""
        return self.height, self.width, self.channels

    def to_json(self) -> dict[str, Any]:
        """The keys `input` and `preprocess` of config.json and manifest.json."""
        fields = {**asdict(self), "antialias": True}  # a constant; Pillow always antialiases when it shrinks
        return {"input": {key: fields.pop(key) for key in ("mode", "height", "width")}, "preprocess": fields}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "InputSpec":
        """Parses the result of `to_json`; unknown keys fail.

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
