"""Opening an artifact for the verbs that look inside."""

from pathlib import Path

from export.predictor import Predictor
from service.settings import read_settings


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
