"""Base classes of errors caused by the user; any other exception that reaches the top is a bug."""

from collections.abc import Iterator


class ConvscopeError(Exception):
    """Faulty user input, or a limit of the machine; the message gives the fault and the expected input."""


class UserError(ConvscopeError, ValueError):
    """An argument, a file or data that cannot be used."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__
