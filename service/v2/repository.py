"""POST /v2/repository: the index of artifacts, and loading and unloading of models if allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from service.context import ServerContext
from service.errors import (
    BodyTooLarge,
    DeadlinePassed,
    LoadFailed,
    LoadingOff,
    MalformedBody,
    ModelNotReady,
    QueueFull,
    UnknownModel,
    UnknownParameter,
    UnknownPath,
)
from service.http.route import ErrorType, Json, Route
from service.openapi.schema import FLAG, TEXT, Component, array, as_json, described, object_schema, one_of
from service.settings import Limit
from service.v2.paths import NAMED
from service.v2.request import parse_object

LIMIT = Limit(1024)  # bytes of a body
_READ: tuple[ErrorType, ...] = (BodyTooLarge, MalformedBody, QueueFull)
_CHANGE: tuple[ErrorType, ...] = (*_READ, DeadlinePassed, UnknownModel, UnknownParameter, UnknownPath)


class RepositoryRoutes:
    """Answers from the catalog, and changes it in every worker."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def index(self, request: Request) -> JSONResponse:
        """Every artifact that was found, and why some are not served."""
        reader = self._context.body_reader
        with self._context.deadline.limit():
            async with reader.body(request.scope, request.receive, limit_bytes=LIMIT) as body:
                asked = parse_object(body) if body else {}
        if unknown := sorted(asked.keys() - {"ready"}):
            raise MalformedBody(f"there is no key {unknown[0][:40]!r}; known is ready")
        ready_only = asked.get("ready", False)
        if not isinstance(ready_only, bool):
            raise MalformedBody(f"ready must be true or false, got {type(ready_only).__name__}")
        entries = [
            {"name": e.manifest.name, "version": str(e.manifest.version), "state": "READY", "reason": ""}
            for e in self._context.catalog.entries()
        ]
        if not ready_only:
            entries += [
                {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
                for name in sorted(self._context.catalog.unloaded)
            ]
            entries += [_failed(Path(path), reason) for path, reason in self._context.catalog.failures.items()]
        return JSONResponse(entries)

    async def load(self, request: Request) -> JSONResponse:
        """Loads a model, in every worker by the time it is answered."""
        with self._context.deadline.limit():
            await self._check(request, ())
            await self._context.reconciler.load(request.path_params["name"])
        return JSONResponse({})

    async def unload(self, request: Request) -> JSONResponse:
        """Unloads a model, in every worker by the time it is answered."""
        with self._context.deadline.limit():
            await self._check(request, ("unload_dependents",))  # sent by Triton's client; ignored here
            await self._context.reconciler.unload(request.path_params["name"])
        return JSONResponse({})

    async def _check(self, request: Request, known: tuple[str, ...]) -> None:
        self._context.reconciler.check_allowed(request.path_params["name"])
        async with self._context.body_reader.body(request.scope, request.receive, limit_bytes=LIMIT) as body:
            parameters = parse_object(body).get("parameters", {}) if body else {}
        if not isinstance(parameters, dict) or (unknown := sorted(set(parameters) - set(known))):
            what = repr(unknown[0][:40]) if isinstance(parameters, dict) else "that is no object"
            raise UnknownParameter(f"there is no parameter {what}; a model is loaded as its manifest says")


def _failed(directory: Path, reason: str) -> dict[str, str]:
    """Name and version of a failed artifact in `<name>/<version>`; any other failed path is a folder of artifacts."""
    named = directory.name.isdecimal()
    return {
        "name": directory.parent.name if named else directory.name,
        "version": directory.name if named else "",
        "state": "UNAVAILABLE",
        "reason": reason,
    }


_STATE = one_of("READY", "UNAVAILABLE")
INDEX_ENTRY = Component("V2IndexEntry", object_schema(name=TEXT, version=TEXT, state=_STATE, reason=TEXT))


def routes(context: ServerContext) -> list[Route]:
    """The routes; without CONVSCOPE_ALLOW_LOADING, loading and unloading are declared as refused."""
    repository = RepositoryRoutes(context)
    wanted = object_schema({"ready": described("lists only served models", FLAG)})
    index = Route(
        "POST",
        "/v2/repository/index",
        repository.index,
        as_json(array(INDEX_ENTRY)),
        _READ,
        body=_body(wanted),
        operation_id="v2_list_repository",
    )
    allowed, parameters = context.settings.allow_loading, object_schema({"parameters": object_schema()})
    unload_parameters = object_schema({"parameters": object_schema({"unload_dependents": FLAG})})

    def change(verb: str, endpoint: Callable[..., Any], failure: ErrorType, body: Json) -> Route:
        path, operation_id = f"/v2/repository/models/{{name}}/{verb}", f"v2_{verb}_model"
        if allowed:
            done, errors = as_json(object_schema()), (*_CHANGE, failure)
            return Route("POST", path, endpoint, done, errors, (NAMED,), _body(body), operation_id=operation_id)
        off = f"Refused, as CONVSCOPE_ALLOW_LOADING is off: no request can {verb} anything"
        refused = (LoadingOff, UnknownPath)
        return Route("POST", path, endpoint, {}, refused, (NAMED,), summary=off, operation_id=operation_id)

    return [
        index,
        change("load", repository.load, LoadFailed, parameters),
        change("unload", repository.unload, ModelNotReady, unload_parameters),
    ]


def _body(schema: Json) -> Json:
    return {"description": f"up to {LIMIT.value} bytes", "content": as_json(schema)}
