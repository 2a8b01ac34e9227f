"""The verb `convscope serve`."""

import os
from pathlib import Path

from cyclopts import CycloptsError

from export.artifact.formats import EngineName, PrecisionName
from export.engines.cuda import Device
from service.process.server import command, environment, preflight
from service.settings import SettingsError, read_settings


def serve(
    artifacts: Path | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    engine: EngineName | None = None,
    precision: PrecisionName | None = None,
    device: Device | None = None,
    image_limit_pixels: int | None = None,
) -> None:
    """Serves artifacts over HTTP, after checking all their hashes. Ctrl-C stops the server.

    For example `convscope serve artifacts --port 3000 --workers 2`, or from BentoML's model store
    `convscope serve bentoml:lenet-mnist:1`. Every other setting is an environment variable
    CONVSCOPE_...; docs/settings.md lists them.

    Args:
        artifacts: A folder of artifacts, one artifact, or bentoml:NAME:VERSION [default: artifacts].
        host: Address to listen on [default: 127.0.0.1].
        port: Port to listen on [default: 3000].
        workers: Server processes [default: 1].
        engine: auto takes the fastest engine found by `convscope bench --use` on this machine; without a record, ONNX
            Runtime if there is an ONNX file.
        precision: fp32, fp16, bf16 or int8; auto likewise takes the fastest, otherwise fp32.
        device: auto takes CUDA if available.
        image_limit_pixels: Largest image, as width x height of what is decoded [default: 50 million].
    """
    try:
        settings = read_settings(
            artifacts=artifacts,
            host=host,
            port=port,
            workers=workers,
            engine=engine,
            precision=precision,
            device=device,
            image_limit_pixels=image_limit_pixels,
        )
    except SettingsError as error:
        raise CycloptsError(msg=str(error)) from None
    manifests, variables = preflight(settings), environment(settings)
    names = ", ".join(f"{manifest.name}:{manifest.version}" for manifest in manifests)
    print(
        f"serving {names} at http://{settings.host}:{settings.port} (the page is there too); Ctrl-C stops", flush=True
    )
    words = command(settings)
    os.execve(words[0], words, variables)  # so that signals reach the server itself
