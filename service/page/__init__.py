"""The page at `/` and the HTTP reference at `/docs`: static files, without requests to other hosts."""

from starlette.requests import Request
from starlette.responses import Response

from service.errors import UnknownPath
from service.http.route import Route, path_parameter
from service.openapi.schema import TEXT, one_of
from service.page.files import page_files

_INDEX, _DOCS = "index.html", "docs/docs.html"


def routes() -> list[Route]:
    """The routes, which contain no secrets and need no token."""
    assets = page_files()
    page, reference = assets.pop(_INDEX), assets.pop(_DOCS)

    async def index(request: Request) -> Response:
        """The page."""
        return page.respond(request)

    async def docs(request: Request) -> Response:
        """The HTTP reference: every operation, to be tried in the browser."""
        return reference.respond(request)

    async def asset(request: Request) -> Response:
        """The scripts and styles of the page and the reference."""
        name = request.path_params["file"]
        if name not in assets:
            raise UnknownPath(f"there is nothing at {request.url.path}")
        return assets[name].respond(request)

    text, file = {"schema": TEXT}, path_parameter("file", one_of(*assets))
    answers = {media_type: text for media_type in sorted({asset.media_type for asset in assets.values()})}
    return [
        Route("GET", "/", index, {"text/html": text}, public=True, cached=True, operation_id="get_page"),
        Route("GET", "/docs", docs, {"text/html": text}, public=True, cached=True, operation_id="get_docs"),
        Route(
            "GET",
            "/page/{file}",
            asset,
            answers,
            (UnknownPath,),
            (file,),
            public=True,
            cached=True,
            operation_id="get_page_file",
        ),
    ]
