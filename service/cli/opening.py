"""Opening an artifact for the verbs that look inside."""

from pathlib import Path

from cyclopts import CycloptsError

from export.predictor import Predictor
from models.images.decode import Pixels
from models.images.errors import ImageTooLarge
from service.settings import SettingsError, read_settings


def open_as_served(artifact: Path) -> Predictor:
    """Opens an artifact with the engine, the precision, the device and the threads of CONVSCOPE_... that a server uses.

    Raises:
        ArtifactError, EngineError, SettingsError: see `Predictor.open` and `read_settings`.
    """
    settings = read_settings()
    return Predictor.open(
        artifact,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads_per_run,
        check_all=True,
    )


def pixel_limit(given: int | None) -> int:
    """The value of --image-limit-pixels, by default that of CONVSCOPE_IMAGE_LIMIT_PIXELS."""
    try:
        return read_settings(image_limit_pixels=given).image_limit_pixels
    except SettingsError as error:
        raise CycloptsError(msg=str(error)) from None


def decode_file(model: Predictor, image: bytes | Path, limit_pixels: int) -> Pixels:
    """The image at the network's size; the error of one that is too large names the flag."""
    try:
        return model.decode(image, limit_pixels=limit_pixels)
    except ImageTooLarge as error:
        if type(error) is not ImageTooLarge:
            raise
        raise ImageTooLarge(f"{error}; --image-limit-pixels raises it") from None
