"""The Python API, `import convscope`, and the console command `convscope`; both import their modules lazily.

import convscope

model = convscope.load("artifacts/lenet-digits")
print(model.classify("digit.png"))
"""

import difflib
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts import App

    from models.errors import ConvscopeError
    from models.results import ImageFailure, Prediction, Result
    from service.client.client import AsyncClient, Client
    from service.python_api import Model, evaluate, export, load, train

__all__ = [
    "AsyncClient",
    "Client",
    "ConvscopeError",
    "ImageFailure",
    "Model",
    "Prediction",
    "Result",
    "evaluate",
    "export",
    "load",
    "train",
]
_PACKAGES = ("models", "training", "export", "service")
_MODULES = {  # of the names above
    "models.errors": ("ConvscopeError",),
    "models.results": ("ImageFailure", "Prediction", "Result"),
    "service.python_api": ("Model", "evaluate", "export", "load", "train"),
    "service.client.client": ("AsyncClient", "Client"),
}

VERBS = {  # verb: (where it is, what it does)
    "train": ("training.cli.train:train", "train a network and write a checkpoint"),
    "evaluate": ("export.cli.commands:evaluate", "measure a checkpoint or an artifact on a test set"),
    "export": ("export.cli.commands:export", "turn a checkpoint into a verified artifact"),
    "import-onnx": ("export.cli.import_onnx:import_onnx", "convert a third-party ONNX classifier to an artifact"),
    "verify": (
        "export.cli.commands:verify",
        "check an artifact's hashes, golden images and, with --data, its accuracy",
    ),
    "bench": ("export.cli.bench:bench", "measure every file of an artifact on this machine"),
    "summary": ("export.cli.commands:summary", "list a network's layers, shapes, parameters and receptive fields"),
    "serve": ("service.cli.serve:serve", "serve artifacts over HTTP"),
    "classify": ("service.cli.classify:classify", "classify image files and folders"),
    "batch": ("service.cli.batch:batch", "classify every image of a folder, a list, tar or Parquet files"),
    "inspect": ("service.cli.images:inspect", "draw a sheet of feature maps for one image"),
    "explain": ("service.cli.explain:explain", "draw which places of an image speak for a class"),
    "unit": ("service.cli.images:unit", "show the arithmetic of one number inside a network"),
    "index": ("service.cli.index:index", "find the images of a data set that excite each channel most"),
    "demo": ("service.cli.demo:demo", "train on the built-in digits, export, verify, serve"),
}


def _import_own_packages() -> None:
    """Imports our packages from beside this file, so that they are found whatever the path begins with.

    Raises:
        ImportError: another module has one of their names already.
    """
    here = os.path.dirname(os.path.realpath(__file__))
    for name in _PACKAGES:
        there = sys.modules.get(name)
        if there is None:
            spec = PathFinder.find_spec(name, [here])
            assert spec is not None and spec.loader is not None, f"{name} is installed beside convscope.py"
            sys.modules[name] = package = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(package)
        elif os.path.dirname(os.path.realpath(next(iter(getattr(there, "__path__", ("",)))))) != here:
            raise ImportError(
                f"a module {name!r} was imported from {getattr(there, '__file__', None)}, and convscope has a package "
                "of this name: import convscope before it"
            )


# On import, as processes that multiprocessing spawns import this module first, but never call `main`: a folder `models`
# or a file `service.py` in the working directory, which `python -m` searches first, is the user's.
_import_own_packages()


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def build_app(verb_used: str = "") -> "App":
    """Registers every verb by its import path, so that none is imported yet.

    The help of the invoked verb comes from its docstring, that of the others from the table.
    """
    from cyclopts import App

    app = App(
        name="convscope",
        help="Train, export, serve and look inside convolutional image classifiers.",
        version="0.1.0",
        result_action="return_value",
    )
    for verb, (path, about) in VERBS.items():
        app.command(path, name=verb, **({} if verb == verb_used else {"help": about}))
    return app


def _check_verb(words: Sequence[str]) -> None:
    """Refuses an unknown verb; cyclopts imports every verb's module, and so torch, to do the same."""
    from cyclopts import CycloptsError

    if words and not words[0].startswith("-") and words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(VERBS)}"
        raise CycloptsError(msg=f"no command is called {words[0]!r}; {hint}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the work failed, 2 bad arguments, 130 interrupted.

    Errors are one line on standard error; `--debug` (or CONVSCOPE_DEBUG=1) shows the traceback instead. An exception
    that is neither ours nor the operating system's is reported as a bug.
    """
    from cyclopts import CycloptsError

    from models.cores import limit_openmp
    from models.errors import ConvscopeError
    from training.cli.spellings import with_our_spellings

    limit_openmp()
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--debug"]
    debug = len(words) < len(given) or os.environ.get("CONVSCOPE_DEBUG") == "1"
    try:
        _check_verb(words)
        words = with_our_spellings(words)
        status = build_app(*words[:1])(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output has closed it, `head` for example
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, IsADirectoryError):
            print(f"convscope: {error.filename} is a folder; give one of its files", file=sys.stderr)
        elif isinstance(error, CycloptsError | ConvscopeError | OSError):
            print(f"convscope: {error}", file=sys.stderr)
        else:
            reason = (str(error).splitlines() or [""])[0]
            print(
                f"convscope: a bug: {type(error).__name__}: {reason}; --debug shows where it happened", file=sys.stderr
            )
        sys.exit(2 if isinstance(error, CycloptsError) else 1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
