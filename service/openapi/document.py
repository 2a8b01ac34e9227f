"""GET /openapi.json: what every route takes and answers, for programs and people (OpenAPI 3.1)."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from export.engines.machine import installed_version
from service.errors import ModelNotReady, UnknownPath
from service.openapi.operation import Operation
from service.openapi.schema import TEXT, Json, as_json, one_of
from service.openapi.v1 import v1_paths, v1_schemas
from service.openapi.v2 import v2_paths, v2_schemas
from service.page import ASSETS
from service.settings import Settings

PATH = "/openapi.json"
_ABOUT = """Classifies images, and shows what every layer of the served network makes of them.

Every route that takes GET takes HEAD too. A method that a route does not take gets 405, and anything else 404; both in
the shape of all errors of that path, but for 405 of `/livez`, `/healthz`, `/readyz` and `/schema.json`, which is text.
Every answer has the header `X-Request-Id`: the request's own, if that is 1 to 128 printable ASCII characters, or a new
one.
"""


class OpenApi:
    """The route. The document depends on the settings alone, so it is written once."""

    def __init__(self, settings: Settings) -> None:
        self._body = orjson.dumps(build_document(settings))

    async def __call__(self, request: Request) -> Response:
        """Answers with the document."""
        return Response(self._body, media_type="application/json")


def build_document(settings: Settings) -> Json:
    """The OpenAPI document of a server with these settings."""
    paths = {**v1_paths(settings), **v2_paths(settings), **_server_paths()}
    bearer: Json = {"bearer": []}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "convscope",
            "version": installed_version("convscope") or "0",  # a Bento has no record of it
            "summary": "Image classification and feature maps",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [bearer] if settings.token else [{}, bearer],
        "paths": {
            path: {method: operation.to_json(path) for method, operation in operations.items()}
            for path, operations in paths.items()
        },
        "components": {
            "schemas": {**v1_schemas(), **v2_schemas()},
            "headers": {"RequestId": {"description": "is in the server's log too", "required": True, "schema": TEXT}},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "wanted where CONVSCOPE_TOKEN is set, on everything but health and the page",
                }
            },
        },
    }


def _server_paths() -> dict[str, dict[str, Operation]]:
    health = {"text/plain": {"schema": TEXT}}
    text = {"schema": TEXT}
    name = {"name": "name", "in": "path", "required": True, "schema": one_of(*ASSETS)}
    return {
        "/livez": {"get": Operation(summary="Whether the server runs", answers=health, public=True)},
        "/healthz": {"get": Operation(summary="The same as /livez", answers=health, public=True)},
        "/readyz": {
            "get": Operation(
                summary="Whether every artifact gave its golden answers, or why not",
                answers=health,
                errors=(ModelNotReady,),
                public=True,
            )
        },
        "/metrics": {
            "get": Operation(
                summary="Metrics for Prometheus",
                answers={"text/plain": text, "application/openmetrics-text": text},
            )
        },
        "/schema.json": {
            "get": Operation(summary="What BentoML's own client reads of /predict", answers=as_json({"type": "object"}))
        },
        PATH: {"get": Operation(summary="This document", answers=as_json({"type": "object"}))},
        "/": {"get": Operation(summary="The page", answers={"text/html": text}, public=True)},
        "/page/{name}": {
            "get": Operation(
                summary="What the page is made of",
                parameters=[name],
                answers={"text/css": text, "text/javascript": text},
                errors=(UnknownPath,),
                public=True,
            )
        },
    }
