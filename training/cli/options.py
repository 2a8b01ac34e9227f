"""Options of a network on the command line: `--option hidden=84`."""

import ast
from collections.abc import Sequence
from typing import Any

import torch

from models.errors import UserError
from models.networks.names import TORCHVISION_PREFIX, torchvision_names
from models.networks.registry import NETWORKS, build_network, find_network


def parse_options(model: str, words: Sequence[str]) -> dict[str, Any]:
    """Parses `key=value` words; values are Python literals (84, 0.5, 120,84, True) or otherwise plain text.

    If the network's default is a tuple, a single value becomes one.

    Raises:
        ValueError: no such network or option, a word without `=`, or a key given twice.
    """
    parameters = find_network(model).options
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"--option is {word!r}; it must be key=value, for example hidden=84")
        if key not in parameters:
            raise UserError(f"{model} has no option {key!r}; it has {', '.join(sorted(parameters)) or 'none'}")
        if key in options:
            raise UserError(f"--option {key} is given twice")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        wants_tuple = isinstance(parameters[key].default, tuple)
        options[key] = (value,) if wants_tuple and not isinstance(value, tuple) else value
    return options


def check_options(model: str, options: dict[str, Any], *, size: int | None) -> None:
    """Builds the network to check its options and size, if any are given.

    Channels and classes are known only from the data; custom networks may need specific ones and are not checked.

    Raises:
        ValueError: it cannot be built; the message quotes the options or the size.
    """
    custom = model not in NETWORKS and model.removeprefix(TORCHVISION_PREFIX) not in torchvision_names()
    if custom or not (options or size):
        return
    side = size or find_network(model).sizes[0]
    try:
        with torch.random.fork_rng(devices=[]):
            build_network(model, channels=3, height=side, width=side, classes=10, **options)
    except (TypeError, RuntimeError) as error:  # raised by torch for invalid values
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or f"--size {size}"
        raise UserError(f"{model} cannot be built with {given}: {str(error).splitlines()[0]}") from error
