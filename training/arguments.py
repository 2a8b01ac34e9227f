"""Errors in a command's words, as all verbs report them."""

from collections.abc import Iterator
from contextlib import contextmanager

from cyclopts import CycloptsError


@contextmanager
def bad_arguments() -> Iterator[None]:
    """A ValueError inside is the caller's mistake: one line, and exit status 2."""
    try:
        yield
    except ValueError as error:
        raise CycloptsError(msg=str(error)) from None
