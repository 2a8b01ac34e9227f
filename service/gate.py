"""The door in front of everything, BentoML's own routes included: the token, and what BentoML must not answer."""

import hmac
from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import predict
from service.answers import send_error
from service.errors import Unauthorized
from service.http import Answering
from service.observer import Observer
from service.settings import Settings

HEALTH = ("/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class Gate:
    """ASGI middleware around BentoML's application; `http` is ours, which is also mounted inside it."""

    def __init__(self, app: ASGIApp, settings: Settings, http: Answering) -> None:
        self._app = app
        self._http = http
        self._observed = Observer(
            self._answer, metrics=http.metrics.counts, route_of=http.route_of, log_all=settings.access_log
        )
        self._token = settings.token.get_secret_value().encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with the reason why not."""
        if scope["type"] == "http":
            await self._observed(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # nothing here speaks it
        else:
            await self._app(scope, receive, send)

    def _answer(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not self._may_pass(scope):
            error = Unauthorized("this server wants the header Authorization: Bearer TOKEN")
            return send_error(send, error, scope["path"])
        if scope["path"] == predict.PATH:
            return self._http(scope, receive, send)
        return self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"]
        # The page itself holds no secret; what it asks for is guarded.
        if self._token is None or path in HEALTH or path == "/" or path.startswith("/page/"):
            return True
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)
