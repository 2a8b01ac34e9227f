"""Conditional requests: an entity tag for what never changes within a version, and 304 for a client that has it."""

import hashlib

from starlette.requests import Request
from starlette.responses import Response


def etag_of(*parts: object) -> str:
    """A strong entity tag of everything that an answer depends on."""
    return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


def not_modified(request: Request, etag: str) -> Response | None:
    """An answer 304 if the request's If-None-Match lists the tag, or None (RFC 9110, section 13.1.2)."""
    given = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers={"etag": etag}) if etag in given or "*" in given else None
