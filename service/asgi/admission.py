"""Admission control before all routes: CORS, the token, the limit on requests in flight, the choice of application."""

import hmac
from collections.abc import Awaitable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.asgi.application import Application
from service.asgi.errors import send_error
from service.asgi.operations import NATIVE
from service.errors import QueueFull, RequestError, Unauthorized, UpgradeRefused
from service.http.requests import get_header
from service.settings import Settings
from service.telemetry.middleware import TelemetryMiddleware
from service.v2.tensors import HEADER_LENGTH

HEALTH = ("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class AdmissionControl:
    """The whole server as one ASGI application.

    Args:
        native: BentoML's application, which answers its own routes and handles the worker's lifespan.
        http: our application, which answers everything else.
    """

    def __init__(self, native: ASGIApp, settings: Settings, http: Application) -> None:
        self._native = native
        self._http = http
        # A browser's preflight request (CORS) carries no token, so it is answered before the token is checked.
        self._observed = TelemetryMiddleware(
            _with_cors(self._dispatch, settings.origins) if settings.origins else self._dispatch,
            metrics=http.metrics.counts,
            route_of=http.route_of,
            log_all=settings.access_log,
            draining=lambda: http.context.catalog.draining,
        )
        self._concurrency, self._active_requests = settings.limit("concurrency"), 0
        self._token = settings.token.get_secret_value().encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or refuses it with the reason."""
        if scope["type"] == "http":
            self._active_requests += 1
            try:
                await self._observed(scope, receive, send)
            finally:
                self._active_requests -= 1
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # there are no websocket routes
        else:
            await self._native(scope, receive, send)

    def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if get_header(scope, b"upgrade") and _has_body(scope):
            # uvicorn stops reading at such a header, and would parse the body as the next request.
            error: RequestError = UpgradeRefused(
                "a request with a body must not request another protocol by Upgrade; this is HTTP/1.1"
            )
            return send_error(send, error, scope["path"])
        if not self._is_authorized(scope):
            error = Unauthorized("this server requires the header Authorization: Bearer TOKEN")
            return send_error(send, error, scope["path"])
        if self._active_requests > self._concurrency.value and scope["path"] not in HEALTH:
            full = QueueFull(f"too many requests are under way; the limit is {self._concurrency}", retry_after_s=1)
            return send_error(send, full, scope["path"])
        native = scope["path"] in NATIVE and scope["method"] in ("GET", "HEAD")
        return (self._native if native else self._http)(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        path = scope["path"]
        # The page itself contains no secrets; the routes it calls are protected.
        if self._token is None or path in HEALTH or path in ("/", "/docs") or path.startswith("/page/"):
            return True
        scheme, _, token = get_header(scope, b"authorization").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


def _has_body(scope: Scope) -> bool:
    return get_header(scope, b"content-length") not in ("", "0") or bool(get_header(scope, b"transfer-encoding"))


def _with_cors(app: ASGIApp, origins: list[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id", "Traceparent", HEADER_LENGTH],
        expose_headers=["X-Request-Id", "Retry-After", HEADER_LENGTH],
    )
