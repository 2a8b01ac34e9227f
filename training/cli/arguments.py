"""Errors in a command's words, as all verbs report them."""

from collections.abc import Iterator
from contextlib import contextmanager

from cyclopts import CycloptsError


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError inside is the caller's mistake: one line, and exit status 2."""
    try:
        yield
    except ValueError as error:
        raise CycloptsError(msg=str(error)) from None


def check_memory(memory_limit_mb: int, workers: int | None) -> None:
    """Nothing if both can be.

    Raises:
        ValueError: one is negative.
    """
    if memory_limit_mb < 0 or (workers is not None and workers < 0):
        raise ValueError(f"--memory-limit-mb is {memory_limit_mb} and --workers {workers}; both must be at least 0")
