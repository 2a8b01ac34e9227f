"""GET /openapi.json: requests and responses of every route, for programs and people (OpenAPI 3.1)."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache

import orjson
from starlette.requests import Request
from starlette.responses import Response

from export.engines.machine import installed_version
from models.images.errors import ImageError
from service.errors import STATUS, Unauthorized, has_plain_errors, is_v2
from service.http.route import ErrorType, Json, Route
from service.openapi.schema import TEXT, Component, as_json, described, find_components, object_schema, one_of
from service.settings import Settings
from service.telemetry.metrics import INTERNAL

_ABOUT = """Classifies images, and shows the feature maps of every layer of the served network.

Every route with GET also has HEAD. An unsupported method gets 405, and an unknown path 404; both in the format of all
errors of that path, except 405 of `/livez`, `/healthz`, `/readyz` and `/schema.json`, which is text. Every answer has
the header `X-Request-Id`: the request's own, if that is 1 to 128 printable ASCII characters, or a new one.
"""
_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_ETAG: Json = {"ETag": {"description": "send it as If-None-Match to be answered 304", "required": True, "schema": TEXT}}
_AUTHENTICATE = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
_RETRY_AFTER: Json = {
    "description": "seconds to wait before a retry",
    "schema": {"type": "integer", "minimum": 1},
}


def error_codes(kind: type[Exception] = Exception) -> list[str]:
    """The codes of all errors of this class."""
    codes = {one.code for one in STATUS if issubclass(one, kind)}  # type: ignore[attr-defined]  # all of them have one
    return sorted(codes | ({INTERNAL} if kind is Exception else set()))


ERROR = Component("Error", object_schema(error=object_schema(code=one_of(*error_codes()), message=TEXT)))
PLACE = {"field": described("of a form", TEXT), "file": described("its name; empty if the form gives none", TEXT)}
_ERROR = object_schema(code=one_of(*error_codes(ImageError)), message=TEXT)
REFUSED = Component("Refused", object_schema(PLACE, error=_ERROR))
V2_ERROR = Component("V2Error", object_schema(error=TEXT))


def openapi_route(routes: Sequence[Route], settings: Settings) -> Route:
    """The route of the document, which is built on the first request; by then `routes` includes this route."""
    encoded = cache(lambda: orjson.dumps(build_document(routes, settings)))

    async def endpoint(request: Request) -> Response:
        """The OpenAPI document."""
        return Response(await asyncio.to_thread(encoded), media_type="application/json")

    return Route("GET", "/openapi.json", endpoint, as_json({"type": "object"}), operation_id="openapi_document")


def build_document(routes: Sequence[Route], settings: Settings) -> Json:
    """The OpenAPI document for a server with these routes and settings."""
    paths: Json = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    bearer: Json = {"bearer": []}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "convscope",
            "version": installed_version("convscope") or "0",  # a Bento has no installation metadata
            "summary": "Image classification and feature maps",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [bearer] if settings.token else [{}, bearer],
        "paths": paths,
        "components": {
            "schemas": dict(find_components(paths)),
            "headers": {"RequestId": {"description": "also in the server's log", "required": True, "schema": TEXT}},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "required if CONVSCOPE_TOKEN is set, on everything but health and the page",
                }
            },
        },
    }


def statuses(route: Route) -> dict[int, list[ErrorType]]:
    """The errors of a route by status, in order; 500 is possible everywhere and left out."""
    kinds = route.errors if route.public else (*route.errors, Unauthorized)
    found = sorted({STATUS[kind] for kind in kinds})
    return {status: [kind for kind in kinds if STATUS[kind] == status] for status in found}


def _operation(route: Route) -> Json:
    responses: Json = {}
    if route.answers:
        headers = {**_REQUEST_ID, **route.headers}
        if route.cached:
            headers |= _ETAG
            responses["304"] = {"description": "unchanged since the answer with this tag", "headers": headers}
        responses["200"] = {"description": "done", "headers": headers, "content": route.answers}
    for status, kinds in statuses(route).items():
        responses[str(status)] = _error(route.path, kinds)
    responses["500"] = _error_response(route.path, {INTERNAL: "A fault of the server; its log has the reason."})
    operation: Json = {
        "operationId": route.operation_id,
        "summary": route.title,
        "tags": [_tag(route.path)],
        "responses": responses,
    }
    if route.description:
        operation["description"] = route.description
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.body:
        operation["requestBody"] = route.body
    if route.public:
        operation["security"] = []
    return operation


def _error(path: str, kinds: Sequence[ErrorType]) -> Json:
    meanings = {kind.code: (kind.__doc__ or "").partition("\n")[0] for kind in kinds}
    headers: Json = dict(_AUTHENTICATE) if Unauthorized in kinds else {}
    if waits := [kind for kind in kinds if getattr(kind, "retry_after_s", None)]:
        headers["Retry-After"] = {"required": len(waits) == len(kinds), **_RETRY_AFTER}
    return _error_response(path, meanings, headers)


def _error_response(path: str, meanings: Mapping[str, str], headers: Json | None = None) -> Json:
    codes = sorted(meanings)
    schema: Json
    if has_plain_errors(path):
        lines, schema = [meanings[code] for code in codes], V2_ERROR
    else:
        lines = [f"`{code}`: {meanings[code]}" for code in codes]
        narrowed = {"properties": {"error": {"properties": {"code": one_of(*codes)}}}}
        schema = {"allOf": [ERROR, narrowed]}
    return {
        "description": "\n".join(f"- {line}" for line in lines),
        "headers": {**_REQUEST_ID, **(headers or {})},
        "content": as_json(schema),
    }


def _tag(path: str) -> str:
    if is_v2(path):
        return "Open Inference Protocol"
    if has_plain_errors(path):
        return "TensorFlow Serving, KServe V1"
    return "convscope" if path.startswith("/v1/") or path == "/predict" else "server"
