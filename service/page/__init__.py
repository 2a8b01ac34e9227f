"""The page at `/`: static files, served from this package and asking nothing of any other host."""

from functools import partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_SCRIPTS = "bars card channel network notice pad page predictions reach server source tiles".split()
_ASSETS = {"page.css": "text/css", **{f"{name}.js": "text/javascript" for name in _SCRIPTS}}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def page_routes() -> list[Route]:
    """`/` and `/page/...`."""
    return [
        Route("/", partial(_send, name="index.html", media_type="text/html")),
        *(Route(f"/page/{name}", partial(_send, name=name, media_type=kind)) for name, kind in _ASSETS.items()),
    ]


async def _send(request: Request, *, name: str, media_type: str) -> Response:
    return Response(files(__name__).joinpath(name).read_bytes(), media_type=media_type, headers=_HEADERS)
