"""The HTTP application: the table of routes, and errors in one shape."""

from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from export.engines.protocol import DeviceLost, DeviceMemoryFull, EngineError
from models.images.errors import ImageError
from service.errors import (
    DeadlinePassed,
    GpuLost,
    GpuMemoryFull,
    MethodNotAllowed,
    ModelNotReady,
    RequestError,
    UnknownPath,
    error_json,
)
from service.http.bodies import BodyReader
from service.http.disconnect import ClientDisconnect
from service.http.responses import send_json
from service.inspection.queue import InspectionQueue
from service.openapi.document import PATH as OPENAPI
from service.openapi.document import OpenApi
from service.page import page_routes
from service.routes.errors import send_error
from service.serving.catalog import Catalog
from service.serving.decoding import Decoders
from service.serving.repository import ModelRepository
from service.serving.worker_files import WorkerFiles
from service.serving.worker_metrics import MetricsRoute
from service.settings import Settings
from service.telemetry.metrics import INTERNAL
from service.telemetry.request_context import current
from service.v1.classify import Classify
from service.v1.feature_maps import FeatureMapsRoute
from service.v1.models import ModelRoutes
from service.v1.predict import PATH as PREDICT
from service.v1.predict import Predict
from service.v2.routes import v2_routes

CLASSIFY = "/v1/classify"
NATIVE = ("/livez", "/readyz", "/healthz", "/schema.json")  # routes whose GET BentoML answers


def build_application(catalog: Catalog, settings: Settings) -> "Application":
    """The application behind the gate."""
    decoders = Decoders(lambda: _decoding_threads(catalog, settings))
    body_reader, inspection_queue = BodyReader(settings), InspectionQueue(settings.limit("inspection_queue_size"))
    models, metrics, repository = ModelRoutes(catalog), MetricsRoute(catalog), ModelRepository(catalog, settings)
    one = "/v1/models/{model}"
    routes = Router(  # not an application: its error middleware would answer before ours
        [
            *v2_routes(catalog, repository, metrics, settings, body_reader, decoders, inspection_queue),
            Route("/v1/models", _endpoint(models.models)),
            Route(one, _endpoint(models.model)),
            Route(f"{one}/labels", _endpoint(models.labels)),
            Route(f"{one}/graph", _endpoint(models.graph)),
            Route(
                f"{one}/feature-maps",
                _endpoint(FeatureMapsRoute(catalog, settings, body_reader, inspection_queue)),
                methods=["POST"],
            ),
            Route("/metrics", _endpoint(metrics)),
            Route(OPENAPI, _endpoint(OpenApi(settings))),
            *page_routes(),
        ],
        redirect_slashes=False,  # a path with a slash more is another path, whatever its method
    )
    posts = Classify(catalog, settings, body_reader, decoders), Predict(catalog, settings, body_reader)
    return Application(*posts, routes, metrics, repository, deadline_s=settings.deadline_s)


class Application:
    """Sends the two routes without a request object straight on, and turns every error into an answer.

    Attributes:
        predict: what answers `/predict`, which BentoML's schema points to.
        metrics: what answers `/metrics`.
    """

    def __init__(
        self,
        classify: Classify,
        predict: Predict,
        routes: Router,
        metrics: MetricsRoute,
        repository: ModelRepository,
        *,
        deadline_s: float,
    ) -> None:
        self.predict = predict
        self.metrics = metrics
        self._repository = repository
        self._deadline_s = deadline_s
        self._posts: dict[str, ASGIApp] = {CLASSIFY: classify, PREDICT: predict}
        self._routes = routes
        self._named: dict[tuple[object, ...], list[Route]] = {}
        for route in routes.routes:
            assert isinstance(route, Route)
            self._named.setdefault((route.endpoint, *route.param_convertors), []).append(route)

    @property
    def templates(self) -> set[str]:
        """The templates of all routes, BentoML's included."""
        return {*self._posts, *NATIVE, *(route.path for same in self._named.values() for route in same)}

    def start(self, files: WorkerFiles | None) -> None:
        """Opens the models, and begins to watch and to count; to be called on the event loop, before any request.

        Args:
            files: what the workers of this server share; None for a worker on its own.
        """
        self._repository.start(files)
        self.metrics.start(files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        try:
            post = self._posts.get(scope["path"])
            if scope["path"] in NATIVE:
                raise MethodNotAllowed(f"{scope['path']} takes GET, not {scope['method']}", allow="GET, HEAD")
            if post is None:
                scope["app"] = self  # tells the router to raise, not to answer, what it does not know
                await self._routes(scope, receive, send)
            elif scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}", allow="POST")
            else:
                await post(scope, receive, send)
        except (RequestError, ImageError) as error:
            await send_error(send, error, scope["path"])
        except HTTPException as error:
            await send_error(send, _router_error(error, scope), scope["path"])
        except EngineError as error:
            await send_error(send, _engine_error(error), scope["path"])
        except TimeoutError:  # of the `asyncio.timeout` that every route has around its work
            late = DeadlinePassed(
                f"no answer within {self._deadline_s:g} s (CONVSCOPE_DEADLINE_S); the work was dropped"
            )
            await send_error(send, late, scope["path"])
        except ClientDisconnect:
            return
        except Exception as error:
            message = "the server failed on this request; its log says why"
            current().fail(INTERNAL, message, error)
            await send_json(send, 500, error_json(scope["path"], INTERNAL, message))

    def route_of(self, scope: Scope) -> str:
        """The template of the route that answered a request, or `unknown`: paths have no bound, templates have one."""
        path: str = scope["path"]
        if path in self._posts or path in NATIVE:
            return path
        same = self._named.get((scope.get("endpoint"), *scope.get("path_params", ())), ())
        return next((route.path for route in same if route.path_regex.match(path)), "unknown")


def _endpoint(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:  # Starlette passes a request only to plain functions
        return await handle(request)

    return endpoint


def _decoding_threads(catalog: Catalog, settings: Settings) -> int:
    """As many as infer; inference on a GPU leaves every core to decoding, whatever is set for it."""
    on_gpu = any(model.engine.device == "cuda" for model in catalog.models())
    return settings.cores_per_worker if on_gpu else settings.threads_per_run


def _engine_error(error: EngineError) -> RequestError:
    if isinstance(error, DeviceMemoryFull):
        return GpuMemoryFull(str(error))
    return GpuLost(str(error)) if isinstance(error, DeviceLost) else ModelNotReady(str(error))


def _router_error(error: HTTPException, scope: Scope) -> RequestError:
    """What the router itself raises: nothing else here raises HTTPException."""
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{scope['path']} does not take {scope['method']}", allow=allow)
    return UnknownPath(f"there is nothing at {scope['path']}")
