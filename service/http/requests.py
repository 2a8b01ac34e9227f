"""Query parameters: only known names, each once unless it is a list, numbers within their range."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qs

from starlette.types import Scope

from service.errors import UnknownParameter
from service.settings import Limit

T = TypeVar("T", bound=str)


def parse_query(query: bytes, known: Collection[str]) -> dict[str, list[str]]:
    """Values by parameter name, in order.

    Raises:
        UnknownParameter: a name that is not in `known`; the message lists the known ones.
    """
    if not query:
        return {}
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if unknown := [name for name in values if name not in known]:
        raise UnknownParameter(f"there is no parameter {unknown[0][:40]!r}; known are {', '.join(known)}")
    return values


def single(values: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The value of a parameter that may be given once, or None.

    Raises:
        UnknownParameter: it was given more than once, or is empty.
    """
    given = values.get(name)
    if given is None:
        return None
    if len(given) > 1 or not given[0]:
        raise UnknownParameter(f"{name} must have one value, got {len([v for v in given if v])}")
    return given[0]


def number(values: Mapping[str, Sequence[str]], name: str, *, least: int, most: int | None = None) -> int | None:
    """An integer from `least`, and to `most` if that is given; None without a value.

    Raises:
        UnknownParameter: the value is anything else.
    """
    given = single(values, name)
    if given is None:
        return None
    if not is_number(given) or int(given) < least or (most is not None and int(given) > most):
        to = "" if most is None else f" to {most}"
        raise UnknownParameter(f"{name} is {given[:20]!r}; wanted a whole number from {least}{to}")
    return int(given)


def is_number(text: str) -> bool:
    """True for one to nine ASCII digits; int() also takes other scripts' digits, and raises for thousands of them."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def choice(values: Mapping[str, Sequence[str]], name: str, options: Sequence[T]) -> T:
    """One of `options`, by default the first; raises UnknownParameter for any other value."""
    given = single(values, name)
    if given is not None and given not in options:
        raise UnknownParameter(f"{name} is {given[:20]!r}; wanted one of {', '.join(options)}")
    return next((option for option in options if option == given), options[0])


def listed(values: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """Values of a parameter that may be given several times, each also with commas; empty ones are left out."""
    return [part for given in values.get(name, ()) for part in given.split(",") if part]


def get_header(scope: Scope, name: bytes) -> str:
    """The value of a header by its lower-case name; empty if it was not sent."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def media_type_of(scope: Scope) -> str:
    """The media type of the body, in lower case and without parameters; empty if none was sent."""
    return get_header(scope, b"content-type").partition(";")[0].strip().lower()


def check_top_k(top_k: int, limit: Limit) -> None:
    """Raises UnknownParameter if `top_k` exceeds the limit."""
    if top_k > limit.value:
        raise UnknownParameter(f"{top_k} predictions for each image; the limit is {limit}")
