"""The page at `/`: static files, served from this package and asking nothing of any other host."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.errors import UnknownPath

_SCRIPTS = "bars card channel network notice pad page predictions reach server source tiles".split()
ASSETS = {"page.css": "text/css", **{f"{name}.js": "text/javascript" for name in _SCRIPTS}}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def page_routes() -> list[Route]:
    """`/` and `/page/{name}`."""
    return [Route("/", _index), Route("/page/{name}", _asset)]


async def _index(request: Request) -> Response:
    return _file("index.html", "text/html")


async def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise UnknownPath(f"there is nothing at {request.url.path}")
    return _file(name, ASSETS[name])


def _file(name: str, media_type: str) -> Response:
    return Response(files(__name__).joinpath(name).read_bytes(), media_type=media_type, headers=_HEADERS)
