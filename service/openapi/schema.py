"""Short constructors of JSON Schema for the OpenAPI document."""

from collections.abc import Iterator
from copy import copy
from typing import Any

from service.http.route import Json, path_parameter

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
FROM_1: Json = {"type": "integer", "minimum": 1}
BINARY: Json = {"type": "string", "format": "binary"}
BASE64: Json = {"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 4}
NAME: Json = {**TEXT, "minLength": 1}
NAMING = "`name`, which means its newest version, or `name:version`"

# A PNG of one pixel, which every model takes.
ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


class Component(Json):
    """A reference to a named schema, which the document lists among its components."""

    def __init__(self, name: str, schema: Json) -> None:
        super().__init__({"$ref": f"#/components/schemas/{name}"})
        self.name = name
        self.schema = schema


def find_components(part: Any) -> Iterator[tuple[str, Json]]:
    """Names and schemas of every component that a part of the document refers to, directly or indirectly."""
    if isinstance(part, Component):
        yield part.name, part.schema
        yield from find_components(part.schema)
    elif isinstance(part, dict | list | tuple):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from find_components(inner)


def described(description: str, schema: Json) -> Json:
    """The same schema with a description."""
    schema = copy(schema)
    schema["description"] = description
    return schema


def object_schema(optional: Json | None = None, **required: Json) -> Json:
    """An object with these members."""
    schema: Json = {"type": "object", "properties": {**required, **(optional or {})}}
    return {**schema, "required": list(required)} if required else schema


def array(items: Json, **limits: int) -> Json:
    """An array; `limits` are JSON Schema keywords such as `minItems`."""
    return {"type": "array", "items": items, **limits}


def integer_text(*, least: int) -> Json:
    """An integer outside of JSON; `service.http.requests` reads up to nine digits."""
    return {"type": "integer", "minimum": least, "maximum": 999_999_999}


def one_of(*values: str) -> Json:
    """One of these strings."""
    return {"type": "string", "enum": list(values)}


def nullable(schema: Json) -> Json:
    """The type of `schema`, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def as_json(schema: Json, **more: Any) -> Json:
    """The media type `application/json` with this schema."""
    return {"application/json": {"schema": schema, **more}}


def model_parameter(name: str) -> Json:
    """The path parameter for the model."""
    return path_parameter(name, NAME, description=NAMING)
