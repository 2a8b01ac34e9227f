"""The door in front of everything, BentoML's own routes included: the token, and a bound on bodies BentoML reads."""

import hmac
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.answers import send_error
from service.bodies import ClientGone, read_body
from service.errors import RequestError, Unauthorized, UnsupportedType
from service.settings import Settings

HEALTH = ("/livez", "/healthz", "/readyz")
NATIVE = "/predict"  # BentoML parses this body itself, and has no limit of its own


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._limit_bytes = settings.body_limit_bytes
        self._token = settings.token.get_secret_value().encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with the reason why not."""
        if scope["type"] == "http":
            try:
                self._authorise(scope)
                if scope["path"] == NATIVE:
                    _check_type(scope)
                    receive = _replay(await read_body(scope, receive, self._limit_bytes), receive)
            except RequestError as error:
                await send_error(send, error)
                return
            except ClientGone:
                return
        await self._app(scope, receive, send)

    def _authorise(self, scope: Scope) -> None:
        path = scope["path"]
        # The page itself holds no secret; what it asks for is guarded.
        if self._token is None or path in HEALTH or path == "/" or path.startswith("/page/"):
            return
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
            raise Unauthorized("this server wants the header Authorization: Bearer TOKEN")


def as_pixels(value: Any) -> Any:
    """Numbers from JSON as uint8; BentoML's own conversion answers 500 to null and wraps 300 around.

    Raises:
        ValueError: anything but a regular array of whole numbers from 0 to 255.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"images must be a regular array of whole numbers, got {array.dtype} values")
    if array.size and not 0 <= array.min() <= array.max() <= 255:
        raise ValueError(f"pixels must be from 0 to 255, got {array.min()} to {array.max()}")
    return array.astype(np.uint8)


def _check_type(scope: Scope) -> None:
    content_type = Headers(scope=scope).get("content-type", "application/json")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedType(
            f"{NATIVE} takes application/json, not {content_type}; images as files go to /v1/classify"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
