"""Paths of one model under /v2, with their parameters, errors and the ends of their operations' names."""

from service.errors import UnknownParameter
from service.http.route import LOOKUP, ErrorType, Json, path_parameter
from service.openapi.schema import integer_text, model_parameter

NAMED = model_parameter("name")
_VERSION = path_parameter("version", integer_text(least=1))
PER_MODEL: tuple[tuple[str, tuple[Json, ...], tuple[ErrorType, ...], str], ...] = (
    ("/v2/models/{name}", (NAMED,), LOOKUP, ""),
    # UnknownParameter: another version than the one in `name:version`
    ("/v2/models/{name}/versions/{version}", (NAMED, _VERSION), (*LOOKUP, UnknownParameter), "_of_version"),
)
