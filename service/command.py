"""The verb `convscope serve`."""

import os
from pathlib import Path

from cyclopts import CycloptsError

from export.cuda import Device
from export.engine import EngineName
from service.server_process import check_before_start, command, environment
from service.settings import SettingsError, read_settings


def serve(
    artifacts: Path | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    engine: EngineName | None = None,
    device: Device | None = None,
) -> None:
    """Serves artifacts over HTTP, after checking every hash in them. Ctrl-C stops.

    For example `convscope serve artifacts --port 3000 --workers 2`. Every other setting is an environment variable
    CONVSCOPE_...; the README lists them.

    Args:
        artifacts: A folder of artifacts, or one [default: artifacts].
        host: Address to listen on [default: 127.0.0.1].
        port: Port to listen on [default: 3000].
        workers: Server processes [default: 1].
        engine: auto takes ONNX Runtime where there is an ONNX file.
        device: auto takes CUDA when it works.
    """
    try:
        settings = read_settings(
            artifacts=artifacts, host=host, port=port, workers=workers, engine=engine, device=device
        )
    except SettingsError as error:
        raise CycloptsError(msg=str(error)) from None
    manifests = check_before_start(settings)
    names = ", ".join(f"{manifest.name}:{manifest.version}" for manifest in manifests)
    print(
        f"serving {names} at http://{settings.host}:{settings.port} (the page is there too); Ctrl-C stops", flush=True
    )
    words = command(settings)
    os.execve(words[0], words, environment(settings))  # so that signals reach the server itself
