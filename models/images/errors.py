"""Errors of images that cannot be used."""

from models.errors import UserError


class ImageError(UserError):
    """An image that cannot be used. `code` is stable and machine-readable; the message is for people."""

    code = "image_error"


class EmptyImage(ImageError):
    """The image has no bytes."""

    code = "image_empty"


class NotAnImage(ImageError):
    """The bytes are of none of the formats in `models.images.header.FORMATS`."""

    code = "image_unsupported"


class ImageTooLarge(ImageError):
    """The header declares more pixels than allowed; nothing is decoded."""

    code = "image_too_large"


class ImageTooNarrow(ImageTooLarge):
    """An image so long and narrow that scaling its shorter side would exceed the maximum number of pixels."""


class ImageUndecodable(ImageError):
    """An image format by its first bytes, but truncated or damaged."""

    code = "image_undecodable"


class UnsupportedMode(ImageError):
    """A valid image with an unsupported pixel mode: floating point, or CIE L*a*b*."""

    code = "image_mode_unsupported"


class NoFiniteScores(ImageError):
    """The network's scores for the image are not finite numbers: it divides by zero, for example."""

    code = "scores_not_finite"

    def __init__(self) -> None:
        super().__init__("the network's scores for this image are not finite numbers, so it has no class")
