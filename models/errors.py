"""The base of all errors that a user caused; whatever else reaches the top is a bug."""


class ConvscopeError(Exception):
    """A mistake in what a user gave, or a limit of the machine; the message says what is wrong and what is wanted."""


class UserError(ConvscopeError, ValueError):
    """An argument, a file or data that cannot be used."""
