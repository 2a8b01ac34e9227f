"""One operation of the OpenAPI document: what a method on a path takes, answers, and can go wrong with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.images.errors import ImageError
from service.errors import STATUS, RequestError, Unauthorized, is_v2
from service.openapi.schema import Json, as_json, one_of, ref
from service.telemetry.metrics import INTERNAL

Kind = type[RequestError] | type[ImageError]
_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_HEADERS: dict[int, Json] = {
    STATUS[Unauthorized]: {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
}
_RETRY_AFTER: Json = {
    "description": "seconds to wait before asking again",
    "schema": {"type": "integer", "minimum": 1},
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is said of one method on one path.

    Attributes:
        summary: one line.
        answers: media types and their schemas, of an answer that is no error; empty where there is never one.
        errors: what can be raised; 401 where there is a token, and 500, go without saying.
        description: more, in Markdown.
        parameters: of the path and the query, and headers.
        body: an OpenAPI request body, or None.
        headers: of an answer that is no error.
        public: answered without a token too.
    """

    summary: str
    answers: Json
    errors: Sequence[Kind] = ()
    description: str = ""
    parameters: Sequence[Json] = ()
    body: Json | None = None
    headers: Json | None = None
    public: bool = False

    def to_json(self, path: str) -> Json:
        """The operation object, for a path whose errors have the shape of all paths like it."""
        kinds = self.errors if self.public else (*self.errors, Unauthorized)
        responses: Json = {}
        if self.answers:
            headers = {**_REQUEST_ID, **(self.headers or {})}
            responses["200"] = {"description": "done", "headers": headers, "content": self.answers}
        for status in sorted({STATUS[kind] for kind in kinds}):
            responses[str(status)] = _error(path, status, [kind for kind in kinds if STATUS[kind] == status])
        responses["500"] = _answer(path, {INTERNAL: "A fault of the server; its log says why."})
        operation: Json = {"summary": self.summary, "tags": [_tag(path)], "responses": responses}
        if self.description:
            operation["description"] = self.description
        if self.parameters:
            operation["parameters"] = list(self.parameters)
        if self.body:
            operation["requestBody"] = self.body
        if self.public:
            operation["security"] = []
        return operation


def _error(path: str, status: int, kinds: Sequence[Kind]) -> Json:
    meanings = {kind.code: (kind.__doc__ or "").partition("\n")[0] for kind in kinds}
    headers, waits = _HEADERS.get(status, {}), [kind for kind in kinds if getattr(kind, "retry_after_s", None)]
    if waits:
        headers = {**headers, "Retry-After": {"required": len(waits) == len(kinds), **_RETRY_AFTER}}
    return _answer(path, meanings, headers)


def _answer(path: str, meanings: Mapping[str, str], headers: Json | None = None) -> Json:
    codes = sorted(meanings)
    if is_v2(path):
        lines, schema = [meanings[code] for code in codes], ref("V2Error")
    else:
        lines = [f"`{code}`: {meanings[code]}" for code in codes]
        narrowed = {"properties": {"error": {"properties": {"code": one_of(*codes)}}}}
        schema = {"allOf": [ref("Error"), narrowed]}
    return {
        "description": "\n".join(f"- {line}" for line in lines),
        "headers": {**_REQUEST_ID, **(headers or {})},
        "content": as_json(schema),
    }


def _tag(path: str) -> str:
    if is_v2(path):
        return "Open Inference Protocol"
    return "convscope" if path.startswith("/v1/") or path == "/predict" else "server"
