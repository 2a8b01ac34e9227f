"""JSON Schema in few words, for the OpenAPI document."""

from typing import Any

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
FROM_1: Json = {"type": "integer", "minimum": 1}
BINARY: Json = {"type": "string", "format": "binary"}


def record(optional: Json | None = None, **required: Json) -> Json:
    """An object with these members."""
    schema: Json = {"type": "object", "properties": {**required, **(optional or {})}}
    return {**schema, "required": list(required)} if required else schema


def array(items: Json, **limits: int) -> Json:
    """An array of these; `limits` are JSON Schema's, such as `minItems`."""
    return {"type": "array", "items": items, **limits}


def digits(*, least: int) -> Json:
    """A number outside of JSON; `service.http.requests` reads up to nine digits."""
    return {"type": "integer", "minimum": least, "maximum": 999_999_999}


def one_of(*values: str) -> Json:
    """One of these texts."""
    return {"type": "string", "enum": list(values)}


def or_null(schema: Json) -> Json:
    """What `schema` describes by its type, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def ref(name: str) -> Json:
    """A schema among the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def as_json(schema: Json, **more: Any) -> Json:
    """The media type `application/json` with this schema."""
    return {"application/json": {"schema": schema, **more}}
