"""The door in front of everything: what browsers ask, the token, and what BentoML answers and what we do."""

import hmac
from collections.abc import Awaitable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import QueueFull, RequestError, Unauthorized, UpgradeRefused
from service.http.requests import header
from service.routes.application import NATIVE, Application
from service.routes.errors import send_error
from service.settings import Settings
from service.telemetry.middleware import TelemetryMiddleware
from service.v2.infer import HEADER

HEALTH = ("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class Gate:
    """The whole server as one ASGI application: BentoML's and ours, and what stands before both.

    Args:
        native: BentoML's application, which answers its own routes and knows when the worker starts and ends.
        settings: for the token, the origins and the bound on concurrency.
        http: ours, which answers everything else.
    """

    def __init__(self, native: ASGIApp, settings: Settings, http: Application) -> None:
        self._native = native
        self._http = http
        # A browser's question whether a page may ask (CORS) carries no token, so it is answered before that is wanted.
        self._observed = TelemetryMiddleware(
            _with_cors(self._answer, settings.origins) if settings.origins else self._answer,
            metrics=http.metrics.counts,
            route_of=http.route_of,
            log_all=settings.access_log,
        )
        self._concurrency, self._under_way = settings.limit("concurrency"), 0
        self._token = settings.token.get_secret_value().encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with the reason why not."""
        if scope["type"] == "http":
            self._under_way += 1
            try:
                await self._observed(scope, receive, send)
            finally:
                self._under_way -= 1
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # nothing here speaks it
        else:
            await self._native(scope, receive, send)

    def _answer(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if header(scope, b"upgrade") and _brings_a_body(scope):
            # uvicorn stops reading at such a header, and would take the body for the next request.
            error: RequestError = UpgradeRefused(
                "a request with a body must not ask for another protocol by Upgrade; this is HTTP/1.1"
            )
            return send_error(send, error, scope["path"])
        if not self._may_pass(scope):
            error = Unauthorized("this server wants the header Authorization: Bearer TOKEN")
            return send_error(send, error, scope["path"])
        if self._under_way > self._concurrency.value and scope["path"] not in HEALTH:
            full = QueueFull(f"too many requests are under way; the limit is {self._concurrency}", retry_after_s=1)
            return send_error(send, full, scope["path"])
        native = scope["path"] in NATIVE and scope["method"] in ("GET", "HEAD")
        return (self._native if native else self._http)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"]
        # The page itself holds no secret; what it asks for is guarded.
        if self._token is None or path in HEALTH or path == "/" or path.startswith("/page/"):
            return True
        scheme, _, token = header(scope, b"authorization").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


def _brings_a_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in ("", "0") or bool(header(scope, b"transfer-encoding"))


def _with_cors(app: ASGIApp, origins: list[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id", "Traceparent", HEADER],
        expose_headers=["X-Request-Id", "Retry-After", HEADER],
    )
