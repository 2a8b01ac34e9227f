"""Routes as data: the router, the OpenAPI document and the table in docs/http.md are made from one list of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.images.errors import EmptyImage, ImageError, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode
from service.errors import (
    BodyEmpty,
    BodyTooLarge,
    DeadlinePassed,
    GpuLost,
    GpuMemoryFull,
    MalformedBody,
    ModelNotReady,
    QueueFull,
    RequestError,
    TooManyImages,
    UnknownModel,
    UnknownPath,
)

Json = dict[str, Any]
ErrorType = type[RequestError] | type[ImageError]

BAD_IMAGE: tuple[ErrorType, ...] = (EmptyImage, ImageTooLarge, ImageUndecodable, NotAnImage, UnsupportedMode)
OVERLOAD: tuple[ErrorType, ...] = (QueueFull, DeadlinePassed, ModelNotReady, GpuMemoryFull, GpuLost)
UPLOAD: tuple[ErrorType, ...] = (*BAD_IMAGE, *OVERLOAD, BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages)
LOOKUP: tuple[ErrorType, ...] = (UnknownModel, UnknownPath, ModelNotReady, GpuLost)  # a slash makes it another path


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        endpoint: takes a Starlette request, or is an ASGI application if `raw`; None for a route of BentoML.
        path: raw routes without a `{parameter}` are dispatched before the router, which saves the hot path its time.
        answers: media types and their schemas, of an answer that is no error; empty where there is never one.
        errors: every route but a public one may answer 401 as well, and each of them 500.
        parameters: of the path, the query and the headers.
        public: answered without a token.
        summary: one line; the first of the endpoint's docstring if left out.
    """

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[..., Any] | None
    answers: Json
    errors: Sequence[ErrorType] = ()
    parameters: Sequence[Json] = ()
    body: Json | None = None
    headers: Json = field(default_factory=dict)
    description: str = ""
    raw: bool = False
    public: bool = False
    summary: str = ""

    @property
    def title(self) -> str:
        """The summary, given or from the docstring."""
        return self.summary or (self.endpoint.__doc__ or "").partition("\n")[0].rstrip(".")


def query_parameter(name: str, description: str, schema: Json) -> Json:
    """An optional query parameter, for the document and, by `query_names`, for the route that reads it."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def query_names(parameters: Iterable[Json]) -> tuple[str, ...]:
    """The names of those that stand in the query."""
    return tuple(parameter["name"] for parameter in parameters if parameter["in"] == "query")


def path_parameter(name: str, schema: Json, **more: str) -> Json:
    """A `{name}` in the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema, **more}
