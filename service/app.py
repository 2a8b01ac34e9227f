"""The BentoML service: BentoML manages processes, workers and lifecycle; `service.asgi` answers requests.

BentoML reads a service's configuration on import, so this is the only module that reads the settings on import.
"""

import gc
from typing import Annotated

import bentoml
import numpy as np
import orjson
from bentoml.serving import running_inside_container
from bentoml.validators import DType
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from service.asgi.admission import AdmissionControl
from service.asgi.application import build_application
from service.errors import ModelNotReady
from service.process.connections import install_http_server
from service.process.home import remove_temporary_home
from service.process.placement import export_visible_gpus, select_gpu
from service.process.shutdown import Shutdown
from service.process.supervision import supervise
from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import files_of, make_directory
from service.settings import read_settings
from service.telemetry.request_context import current
from service.telemetry.request_log import configure_logging
from service.v1.predict import predict as run_predict

SETTINGS = read_settings()
CATALOG = VersionCatalog(SETTINGS)
HTTP = build_application(CATALOG, SETTINGS)
SHUTDOWN = Shutdown(CATALOG, drain_s=SETTINGS.drain_s)


class GatedService(bentoml.Service):  # type: ignore[misc]  # bentoml ships no types for it
    """A BentoML service with our routes in front of its own, whose middleware would add a task to each request."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application that a worker serves; the worker configures uvicorn afterwards."""
        install_http_server(keep_alive_s=SETTINGS.keep_alive_s, workers=SETTINGS.workers)
        return AdmissionControl(super().to_asgi(is_main), SETTINGS, HTTP)


def _bind_address() -> dict[str, str | int]:
    """Default bind address for `bentoml serve`; all interfaces in a container, as its operator publishes ports."""
    within = running_inside_container() and "host" not in SETTINGS.model_fields_set
    return {"host": "0.0.0.0" if within else SETTINGS.host, "port": SETTINGS.port}


@bentoml.service(
    name="convscope",
    service_class=GatedService,
    workers=SETTINGS.workers,
    http=_bind_address(),
    # Our own layers report on all routes; these three would cover only the few that reach BentoML.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Classifier:
    """Serves every artifact under CONVSCOPE_ARTIFACTS."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # bentoml ships no types for it
    @staticmethod
    def before_workers() -> None:
        """Runs once, in the process that starts the workers with its environment."""
        configure_logging(SETTINGS)
        make_directory()
        remove_temporary_home()
        supervise()
        export_visible_gpus(SETTINGS.device)
        gc.freeze()  # otherwise the last collection, at exit, takes most of a second

    def __init__(self) -> None:
        SHUTDOWN.skip_drain()
        worker = bentoml.server_context.worker_index
        configure_logging(SETTINGS, worker=worker)
        select_gpu(worker, SETTINGS.device)  # before anything initialises CUDA
        files = files_of(worker)
        HTTP.start(files)
        SHUTDOWN.prepare(files)
        gc.collect()
        gc.freeze()  # loaded objects stay; the collector can skip them
        gc.set_threshold(100_000, 20, 100)  # each collection traverses the objects of all requests in flight

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # bentoml ships no types for it
    def after_requests(self) -> None:
        """Runs after every request is answered, before the process ends."""
        HTTP.metrics.stop()

    @bentoml.api  # type: ignore[untyped-decorator]  # bentoml ships no types for it
    async def predict(self, images: Annotated[np.ndarray, DType("uint8")], model: str = "") -> np.ndarray:
        """Class probabilities, float32 (N, K), of uint8 images (N, H, W, C) at the network's size.

        Over HTTP `service.v1.predict` answers this route; this method provides BentoML's schema and clients.
        """
        return await run_predict(HTTP.context, images, model)

    async def __is_ready__(self) -> bool:
        """Checks that every artifact is loaded and gave its golden answers.

        Raises:
            HTTPException: 503 with the reason, in the shape of all our errors.
        """
        if reason := CATALOG.not_ready:
            current().fail(ModelNotReady.code, reason)
            body = orjson.dumps({"error": {"code": ModelNotReady.code, "message": reason}}).decode()
            raise HTTPException(503, detail=body, headers={"content-type": "application/json"})
        return True
