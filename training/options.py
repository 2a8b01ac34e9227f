"""A network's own options as words: `--option hidden=84`."""

import ast
from collections.abc import Sequence
from typing import Any

from models.registry import find_network


def parse_options(model: str, words: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` words; values are Python literals (84, 0.5, 120,84, True) or else plain text.

    Where the network's default is a tuple, a single value becomes one.

    Raises:
        ValueError: no such network or option, a word without `=`, or a key given twice.
    """
    parameters = find_network(model).options
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--option is {word!r}; it must be key=value, for example hidden=84")
        if key not in parameters:
            raise ValueError(f"{model} has no option {key!r}; it has {', '.join(sorted(parameters)) or 'none'}")
        if key in options:
            raise ValueError(f"--option {key} is given twice")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        wants_tuple = isinstance(parameters[key].default, tuple)
        options[key] = (value,) if wants_tuple and not isinstance(value, tuple) else value
    return options
