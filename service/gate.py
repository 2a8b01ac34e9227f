"""The door in front of everything, BentoML's own routes included: the token, and what BentoML must not answer."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import predict
from service.answers import send_error
from service.errors import Unauthorized
from service.settings import Settings

HEALTH = ("/livez", "/healthz", "/readyz")


class Gate:
    """ASGI middleware around BentoML's application; `http` is ours, which is also mounted inside it."""

    def __init__(self, app: ASGIApp, settings: Settings, http: ASGIApp) -> None:
        self._app = app
        self._http = http
        self._token = settings.token.get_secret_value().encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with the reason why not."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # nothing here speaks it
        elif scope["type"] == "http" and not self._may_pass(scope):
            await send_error(send, Unauthorized("this server wants the header Authorization: Bearer TOKEN"))
        elif scope["type"] == "http" and scope["path"] == predict.PATH:
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"]
        # The page itself holds no secret; what it asks for is guarded.
        if self._token is None or path in HEALTH or path == "/" or path.startswith("/page/"):
            return True
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)
