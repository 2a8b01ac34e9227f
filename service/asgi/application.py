"""The HTTP application: the router, and errors in one shape."""

from collections.abc import Sequence

from starlette import routing
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from export.engines.protocol import DeviceLost, DeviceMemoryFull, EngineError
from models.images.errors import ImageError
from service import page
from service.asgi import operations
from service.asgi.errors import send_error
from service.context import ServerContext
from service.errors import (
    GpuLost,
    GpuMemoryFull,
    MethodNotAllowed,
    ModelNotReady,
    RequestError,
    UnknownPath,
    error_json,
    forget_frames,
)
from service.http.bodies import BodyReader
from service.http.deadline import Deadline
from service.http.disconnect import ClientDisconnect
from service.http.responses import send_json
from service.http.route import Route
from service.inspection.queue import InspectionQueue
from service.openapi.document import openapi_route
from service.serving.decode_pool import Decoders
from service.serving.reconciler import Reconciler
from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import WorkerFiles
from service.serving.worker_metrics import WorkerMetrics
from service.settings import Settings
from service.telemetry.metrics import INTERNAL
from service.telemetry.request_context import current
from service.v1 import (
    classify,
    compare,
    explain,
    feature_maps,
    instances,
    kernels,
    models,
    predict,
    references,
    samples,
    unit,
)
from service.v2 import infer, metadata, repository, statistics

# In the router's order: inference first, for speed, and /v2/models/stats before /v2/models/{name}.
_V1 = (classify, predict, instances, models, samples, feature_maps, unit, kernels, references, compare, explain)
_MODULES = (infer, statistics, metadata, repository, *_V1, operations)


def build_application(catalog: VersionCatalog, settings: Settings) -> "Application":
    """The application after admission control."""
    context = ServerContext(
        settings=settings,
        catalog=catalog,
        reconciler=Reconciler(catalog, settings),
        metrics=WorkerMetrics(catalog),
        body_reader=BodyReader(settings),
        decoders=Decoders(lambda: _decoding_threads(catalog, settings)),
        inspection_queue=InspectionQueue(settings.limit("inspection_queue_size")),
        deadline=Deadline(settings.deadline_s),
    )
    routes = [route for module in _MODULES for route in module.routes(context)] + page.routes()
    routes.append(openapi_route(routes, settings))
    return Application(context, routes)


class Application:
    """Dispatches raw routes with a fixed path directly, the others by a router, and maps every error to an answer.

    Attributes:
        context: the shared objects of the handlers.
        metrics: the metrics of all workers.
        routes: all routes, including BentoML's.
    """

    def __init__(self, context: ServerContext, routes: Sequence[Route]) -> None:
        self.context = context
        self.metrics = context.metrics
        self.routes = routes
        self._direct_routes: dict[str, ASGIApp] = {}
        self._routes_by_endpoint: dict[tuple[object, ...], list[routing.Route]] = {}
        routed = []
        for route in routes:
            if route.raw and route.endpoint and "{" not in route.path:
                self._direct_routes[route.path] = route.endpoint
            elif route.endpoint:
                routed.append(one := routing.Route(route.pattern, route.endpoint, methods=[route.method]))
                self._routes_by_endpoint.setdefault((one.endpoint, *one.param_convertors), []).append(one)
        # Not an application: its error middleware would answer before ours. A trailing slash makes another path.
        self._router = routing.Router(routed, redirect_slashes=False)

    def start(self, files: WorkerFiles | None) -> None:
        """Opens the models, and starts watching and counting; call it on the event loop, before any request.

        Args:
            files: files shared by the workers of this server; None for a standalone worker.
        """
        self.context.reconciler.start(files)
        self.metrics.start(files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        try:
            direct = self._direct_routes.get(scope["path"])
            if scope["path"] in operations.NATIVE:
                raise MethodNotAllowed(f"{scope['path']} takes GET, not {scope['method']}", allow="GET, HEAD")
            if direct is None:
                scope["app"] = self  # makes the router raise for unknown paths instead of answering
                await self._router(scope, receive, send)
            elif scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}", allow="POST")
            else:
                await direct(scope, receive, send)
        except (RequestError, ImageError) as error:
            await send_error(send, error, scope["path"])
            forget_frames(error)
        except HTTPException as error:
            await send_error(send, _router_error(error, scope), scope["path"])
        except EngineError as error:
            await send_error(send, _engine_error(error), scope["path"])
            forget_frames(error)
        except ClientDisconnect:
            return
        except Exception as error:
            message = "the server failed on this request; its log says why"
            current().fail(INTERNAL, message, error)
            await send_json(send, 500, error_json(scope["path"], INTERNAL, message))

    def route_of(self, scope: Scope) -> str:
        """The template of the route that answered a request, or `unknown`: unlike paths, templates are bounded."""
        path: str = scope["path"]
        if path in self._direct_routes or path in operations.NATIVE:
            return path
        same = self._routes_by_endpoint.get((scope.get("endpoint"), *scope.get("path_params", ())), ())
        return next((route.path_format for route in same if route.path_regex.match(path)), "unknown")


def _decoding_threads(catalog: VersionCatalog, settings: Settings) -> int:
    """As many decoding threads as inference threads; with inference on a GPU, one for every core."""
    on_gpu = any(model.engine.device == "cuda" for model in catalog.models())
    return settings.cores_per_worker if on_gpu else settings.threads_per_run


def _engine_error(error: EngineError) -> RequestError:
    if isinstance(error, DeviceMemoryFull):
        return GpuMemoryFull(str(error))
    return GpuLost(str(error)) if isinstance(error, DeviceLost) else ModelNotReady(str(error))


def _router_error(error: HTTPException, scope: Scope) -> RequestError:
    """Maps the router's exceptions: nothing else here raises HTTPException."""
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{scope['path']} does not take {scope['method']}", allow=allow)
    return UnknownPath(f"there is nothing at {scope['path']}")
