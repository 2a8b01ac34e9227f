"""Errors in the arguments of a command."""

from collections.abc import Iterator
from contextlib import contextmanager

from cyclopts import CycloptsError


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turns a ValueError inside into a usage error, which exits with status 2."""
    try:
        yield
    except ValueError as error:
        raise CycloptsError(msg=str(error)) from None
