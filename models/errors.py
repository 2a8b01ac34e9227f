"""Base classes of errors caused by the user; any other exception that reaches the top is a bug."""


class ConvscopeError(Exception):
    """Faulty user input, or a limit of the machine; the message gives the fault and the expected input."""


class UserError(ConvscopeError, ValueError):
    """An argument, a file or data that cannot be used."""
