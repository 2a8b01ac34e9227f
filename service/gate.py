"""The door in front of everything: the token, and what BentoML answers and what we do."""

import hmac
from collections.abc import Awaitable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import send_error
from service.errors import QueueFull, Unauthorized
from service.headers import header
from service.http import NATIVE, Answering
from service.observer import Observer
from service.settings import Settings
from service.v2_infer import HEADER

HEALTH = ("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


def gated(native: ASGIApp, settings: Settings, http: Answering) -> ASGIApp:
    """The whole server: BentoML's application and ours behind the gate, and before it what browsers ask of one.

    A browser's question whether a page may ask (CORS) carries no token, so it is answered before that is looked at.
    """
    gate = Gate(native, settings, http)
    if not settings.origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id", "Traceparent", HEADER],
        expose_headers=["X-Request-Id", "Retry-After", HEADER],
    )


class Gate:
    """An ASGI application.

    Args:
        native: BentoML's application, which answers its own routes and knows when the worker starts and ends.
        settings: for the token.
        http: ours, which answers everything else.
    """

    def __init__(self, native: ASGIApp, settings: Settings, http: Answering) -> None:
        self._native = native
        self._http = http
        self._observed = Observer(
            self._answer, metrics=http.metrics.counts, route_of=http.route_of, log_all=settings.access_log
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
