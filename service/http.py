"""The HTTP application: the table of routes, and errors in one shape."""

import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from export.engine import EngineError
from models.inputs import ImageError
from service.answers import send_error, send_json
from service.bodies import Bodies, ClientGone
from service.catalog import Catalog
from service.classify import Classify
from service.errors import MethodNotAllowed, ModelNotReady, RequestError, UnknownPath
from service.feature_maps import InspectFeatureMaps
from service.model_routes import ModelRoutes
from service.page import page_routes
from service.predict import PATH as PREDICT
from service.predict import Predict
from service.settings import Settings

log = logging.getLogger("bentoml.convscope")  # a child of the logger that BentoML configures
CLASSIFY = "/v1/classify"


def build_http(catalog: Catalog, settings: Settings) -> "Answering":
    """The application that BentoML mounts at `/`."""
    decoders = ThreadPoolExecutor(settings.threads_per_run, thread_name_prefix="decode")
    bodies = Bodies(settings)
    models = ModelRoutes(catalog)
    one = "/v1/models/{model}"
    routes = Router(  # not an application: its error middleware would answer before ours
        [
            Route("/v1/models", _endpoint(models.models)),
            Route(one, _endpoint(models.model)),
            Route(f"{one}/labels", _endpoint(models.labels)),
            Route(f"{one}/graph", _endpoint(models.graph)),
            Route(f"{one}/feature-maps", _endpoint(InspectFeatureMaps(catalog, settings, bodies)), methods=["POST"]),
            *page_routes(),
        ]
    )
    return Answering(Classify(catalog, settings, bodies, decoders), Predict(catalog, settings, bodies), routes)


class Answering:
    """Sends the two routes without a request object straight on, and turns every error into an answer.

    Attributes:
        predict: what answers `/predict`, which BentoML's schema points to.
    """

    def __init__(self, classify: Classify, predict: Predict, routes: ASGIApp) -> None:
        self.predict = predict
        self._posts: dict[str, ASGIApp] = {CLASSIFY: classify, PREDICT: predict}
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        try:
            post = self._posts.get(scope["path"])
            if post is None:
                await self._routes(scope, receive, send)
            elif scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}", allow="POST")
            else:
                await post(scope, receive, send)
        except (RequestError, ImageError) as error:
            await send_error(send, error)
        except HTTPException as error:
            await send_error(send, _own_error(error, scope))
        except EngineError as error:
            log.error("%s %s: %s", scope["method"], scope["path"], error)
            await send_error(send, ModelNotReady(str(error)))
        except ClientGone:
            return
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            message = "the server failed on this request; its log says why"
            await send_json(send, 500, orjson.dumps({"error": {"code": "internal", "message": message}}))


def _endpoint(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:  # Starlette passes a request only to plain functions
        return await handle(request)

    return endpoint


def _own_error(error: HTTPException, scope: Scope) -> RequestError:
    """What the router itself raises: nothing else here raises HTTPException."""
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{scope['path']} does not take {scope['method']}", allow=allow)
    return UnknownPath(f"there is nothing at {scope['path']}")
