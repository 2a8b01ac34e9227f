"""Wraps every answer, including BentoML's own, with request id, metrics, log and trace; ends connections in a drain."""

from collections.abc import Awaitable, Callable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import error_json
from service.http.responses import send_json
from service.telemetry.counters import Series
from service.telemetry.metrics import INTERNAL, OTHER_CODE, Metrics
from service.telemetry.request_context import CURRENT, REQUEST_ID, RequestContext, RequestIds
from service.telemetry.request_log import log_request
from service.telemetry.tracing import traced

_CLOSE = ((b"connection", b"close"),)
_STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")  # none: the client disconnected before its answer began


class TelemetryMiddleware:
    """ASGI middleware.

    Args:
        app: the wrapped application.
        metrics: counts requests.
        route_of: the route template of an answered scope, from a bounded set.
        log_all: log every request, not only failed ones.
        draining: true while every answer closes its connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        route_of: Callable[[Scope], str],
        log_all: bool,
        draining: Callable[[], bool],
    ) -> None:
        self._app = traced(app, route_of)
        self._metrics = metrics
        self._route_of = route_of
        self._log_all = log_all
        self._draining = draining
        self._tallies: dict[tuple[str, tuple[str, str], int], tuple[Series, Series, Series]] = {}
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started = perf_counter()
        request = RequestContext(self._ids.of(scope["headers"]))

        def send_noted(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                closing = _CLOSE if self._draining() else ()
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request.id), *closing]
            return send(message)

        token = CURRENT.set(request)
        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:  # BentoML's routes can raise anything; ours are answered by service.asgi.application
            said = "the server failed on this request; its log says why"
            request.fail(INTERNAL, said, error)
            if request.status:
                raise  # too late for another answer; the server aborts this one
            await send_json(send_noted, 500, error_json(scope["path"], INTERNAL, said))
        finally:
            CURRENT.reset(token)
            self._note(request, scope, perf_counter() - started)

    def _note(self, request: RequestContext, scope: Scope, seconds: float) -> None:
        route, status = self._route_of(scope), request.status
        key = (route, request.model, status // 100)
        if (tallies := self._tallies.get(key)) is None:
            tallies = self._tallies[key] = self._metrics.of_requests(route, request.model, _STATUS_CLASSES[key[2]])
        requests, duration, decoding = tallies
        requests.count()
        duration.observe(seconds)
        if request.decode_s:
            decoding.observe(request.decode_s)
        if status >= 400:
            self._metrics.errors.of(request.code or OTHER_CODE).count()
        for code in request.image_codes:
            self._metrics.errors.of(code).count()
        if status >= 400 or self._log_all:
            log_request(request, scope["method"], route, seconds, log_all=self._log_all)
