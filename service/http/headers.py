"""Request headers, read from the scope itself."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str:
    """The value of a header, which is in lower case here; empty if it was not sent."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""
