"""Custom networks: `module:callable`, imported from the current directory or Python's path."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from models.errors import UserError
from models.networks.spec import DATA_PARAMETERS, NetworkSpec, check_logits, set_signature

SIZE = 32  # the default of `convscope summary`
_OURS = ("models", "training", "export", "service")
_ROOT = Path(__file__).resolve().parents[2]
_theirs: dict[Path, dict[str, ModuleType]] = {}  # the user's modules with names of ours, by folder, kept between uses


def custom_spec(name: str) -> NetworkSpec:
    """Imports `module:callable` with the current directory first on the path.

    Importing runs the module, so a checkpoint that names one needs as much trust as its code. Modules of Python and
    torch are refused: they contain no custom networks, and a configuration should not call them.

    Raises:
        ValueError: it cannot be imported, or is neither an `nn.Module` class nor a function.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"{name!r} is not module:callable, for example my_networks:SmallNet")
    if (root := module_name.split(".")[0]) in (*sys.stdlib_module_names, "torch", "torchvision"):
        raise UserError(f"{name!r} is a part of {root}, not a network of your own")
    with _current_directory_first():
        target = _target(name, module_name, attribute)
    parameters = inspect.signature(target).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    everything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())

    def build(**settings: Any) -> nn.Module:
        channels, height, width, classes = (settings[key] for key in DATA_PARAMETERS)
        taken = {key: value for key, value in settings.items() if everything or key in parameters}
        needed = [key for key, p in parameters.items() if p.default is p.empty and p.kind in named]
        if missing := [key for key in needed if key not in taken]:
            raise UserError(f"{name} needs {missing[0]!r}; give it with --option {missing[0]}=...")
        with _current_directory_first():  # it may import further modules when called
            try:
                network = target(**taken)
            except Exception as error:  # custom code may raise anything
                raise UserError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
            if not isinstance(network, nn.Module):
                raise UserError(f"{name} returns {type(network).__name__}; it must return a torch.nn.Module")
            parameter = next(network.parameters(), None)
            x = torch.zeros(2, channels, height, width, device=None if parameter is None else parameter.device)
            check_logits(name, network, x, classes=classes)
            if parameter is None:
                raise UserError(f"{name} has no parameters, so there is nothing to learn")
        return network

    set_signature(build, [p for key, p in parameters.items() if p.kind in named and key not in DATA_PARAMETERS])
    return NetworkSpec(build, (SIZE,), f"{attribute} of {module_name}", any_size=True)


def _target(name: str, module_name: str, attribute: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{name}: there is no module {error.name!r} in {Path.cwd()} or installed") from None
        raise UserError(f"{name}: importing {module_name} failed: {error}") from error
    except Exception as error:  # the module's own code may raise anything
        raise UserError(f"{name}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    target = getattr(module, attribute, None)
    if target is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(attribute, public, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"callable there are {', '.join(public) or 'none'}"
        raise UserError(f"{name}: {module_name} has no {attribute!r}; {hint}")
    if not (inspect.isfunction(target) or (inspect.isclass(target) and issubclass(target, nn.Module))):
        raise UserError(f"{name} is {type(target).__name__}; it must be a class of torch.nn.Module or a function")
    return target


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """Puts the current directory first on the module path inside the block, and restores the path afterwards.

    The user's folder `models` is often there; inside the block it takes the place of our package of that name.
    """
    here = Path.cwd()
    names = [name for name in _OURS if (here / name).is_dir() or (here / f"{name}.py").is_file()]
    names = [name for name in names if (here / name).resolve() != _ROOT / name]
    ours = _taken_out(names)
    sys.modules.update(_theirs.get(here, {}))
    sys.path.insert(0, str(here))
    importlib.invalidate_caches()  # files may be newer than the finder's cache
    try:
        yield
    finally:
        sys.path.remove(str(here))
        _theirs[here] = _taken_out(names)
        sys.modules.update(ours)


def _taken_out(names: Sequence[str]) -> dict[str, ModuleType]:
    """Removes packages with these names and all their modules from those that are imported."""
    found = {key: module for key, module in sys.modules.items() if key.split(".")[0] in names}
    for key in found:
        del sys.modules[key]
    return found
