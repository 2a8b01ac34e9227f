"""The page at `/`: static files from this package, without requests to any other host."""

from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from service.errors import UnknownPath
from service.http.route import Route, path_parameter
from service.openapi.schema import TEXT, one_of

_TYPES = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


def _assets() -> dict[str, str]:
    """The scripts and styles in this folder and below it, by path, with their media types."""
    folder = Path(str(files(__name__)))
    found = sorted(path for path in folder.rglob("*") if path.suffix in _TYPES)
    return {path.relative_to(folder).as_posix(): _TYPES[path.suffix] for path in found}


async def _index(request: Request) -> Response:
    """The page."""
    return _file("index.html", "text/html")


def _file(name: str, media_type: str) -> Response:
    return Response(files(__name__).joinpath(name).read_bytes(), media_type=media_type, headers=_HEADERS)


def routes() -> list[Route]:
    """The routes, which contain no secrets and need no token."""
    assets = _assets()

    async def asset(request: Request) -> Response:
        """The scripts and styles of the page."""
        name = request.path_params["file"]
        if name not in assets:
            raise UnknownPath(f"there is nothing at {request.url.path}")
        return _file(name, assets[name])

    text, file = {"schema": TEXT}, path_parameter("file", one_of(*assets))
    answers = {media_type: text for media_type in _TYPES.values()}
    return [
        Route("GET", "/", _index, {"text/html": text}, public=True),
        Route("GET", "/page/{file}", asset, answers, (UnknownPath,), (file,), public=True),
    ]
