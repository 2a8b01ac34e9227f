"""The page at `/`: static files from this package, without requests to any other host."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from service.errors import UnknownPath
from service.http.route import Route, path_parameter
from service.openapi.schema import TEXT, one_of

_SCRIPTS = "bars card channel network notice pad page predictions reach server source tiles".split()
ASSETS = {"page.css": "text/css", **{f"{name}.js": "text/javascript" for name in _SCRIPTS}}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


async def _index(request: Request) -> Response:
    """The page."""
    return _file("index.html", "text/html")


async def _asset(request: Request) -> Response:
    """The scripts and styles of the page."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise UnknownPath(f"there is nothing at {request.url.path}")
    return _file(name, ASSETS[name])


def _file(name: str, media_type: str) -> Response:
    return Response(files(__name__).joinpath(name).read_bytes(), media_type=media_type, headers=_HEADERS)


def routes() -> list[Route]:
    """The routes, which contain no secrets and need no token."""
    text, name = {"schema": TEXT}, path_parameter("name", one_of(*ASSETS))
    assets = {"text/css": text, "text/javascript": text}
    return [
        Route("GET", "/", _index, {"text/html": text}, public=True),
        Route("GET", "/page/{name}", _asset, assets, (UnknownPath,), (name,), public=True),
    ]
