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
    """More pixels than allowed, by the header, before anything is decoded."""

    code = "image_too_large"


class ImageTooNarrow(ImageTooLarge):
    """So long and narrow that it has more pixels than anybody may allow once its shorter side is scaled."""


class ImageUndecodable(ImageError):
    """An image by its first bytes, but truncated or damaged."""

    code = "image_undecodable"


class UnsupportedMode(ImageError):
    """A sound image whose pixels have no agreed meaning here: floating point, or CIE L*a*b*."""

    code = "image_mode_unsupported"
