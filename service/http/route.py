"""Routes as data: one list of them defines the router, the OpenAPI document and the table in docs/http.md."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.images.errors import (
    EmptyImage,
    ImageError,
    ImageTooLarge,
    ImageUndecodable,
    NoFiniteScores,
    NotAnImage,
    UnsupportedMode,
)
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
_BODY: tuple[ErrorType, ...] = (BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages)
UPLOAD: tuple[ErrorType, ...] = (*BAD_IMAGE, *OVERLOAD, *_BODY, NoFiniteScores)
LOOKUP: tuple[ErrorType, ...] = (UnknownModel, UnknownPath, ModelNotReady, GpuLost)  # a slash makes it another path


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        endpoint: takes a Starlette request, or is an ASGI application if `raw`; None for a route of BentoML.
        operation_id: a stable name for programs that generate clients from the OpenAPI document.
        path: raw routes without a `{parameter}` bypass the router, which speeds up the hot path.
        answers: media types of successful answers, and their schemas; empty if the route always fails.
        errors: besides these, every route may answer 500, and every route that is not public 401.
        parameters: in the path, the query and the headers.
        public: answered without a token.
        cached: answers 304 to a client that sends the answer's entity tag.
        summary: one line; by default the first line of the endpoint's docstring.
    """

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[..., Any] | None
    answers: Json
    errors: Sequence[ErrorType] = ()
    operation_id: str = field(kw_only=True)
    parameters: Sequence[Json] = ()
    body: Json | None = None
    headers: Json = field(default_factory=dict)
    description: str = ""
    raw: bool = False
    public: bool = False
    cached: bool = False
    summary: str = ""

    @property
    def pattern(self) -> str:
        """The path as the router takes it; a parameter called `file` may contain slashes."""
        return self.path.replace("{file}", "{file:path}")

    @property
    def title(self) -> str:
        """The summary, explicit or from the docstring."""
        return self.summary or (self.endpoint.__doc__ or "").partition("\n")[0].rstrip(".")


def query_parameter(name: str, description: str, schema: Json) -> Json:
    """An optional query parameter, for the OpenAPI document and, via `query_names`, for its route."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def query_names(parameters: Iterable[Json]) -> tuple[str, ...]:
    """The names of the query parameters."""
    return tuple(parameter["name"] for parameter in parameters if parameter["in"] == "query")


def path_parameter(name: str, schema: Json, **more: str) -> Json:
    """A `{name}` in the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema, **more}
