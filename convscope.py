"""The console command `convscope`: a table of verbs, each imported when it is used."""

import os
import signal
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

VERBS = {  # verb: (where it is, what it does)
    "train": ("training.cli.train:train", "train a network and write a checkpoint"),
    "evaluate": ("export.cli.commands:evaluate", "measure a checkpoint or an artifact on a test set"),
    "export": ("export.cli.commands:export", "turn a checkpoint into a verified artifact"),
    "import-onnx": ("export.cli.import_onnx:import_onnx", "make an artifact of an ONNX classifier from elsewhere"),
    "verify": (
        "export.cli.commands:verify",
        "check an artifact's hashes, golden images and, with --data, its accuracy",
    ),
    "bench": ("export.cli.bench:bench", "measure every file of an artifact on this machine"),
    "summary": ("export.cli.commands:summary", "list a network's layers, shapes, parameters and receptive fields"),
    "serve": ("service.cli.serve:serve", "serve artifacts over HTTP"),
    "classify": ("service.cli.images:classify", "classify image files"),
    "inspect": ("service.cli.images:inspect", "draw a sheet of feature maps for one image"),
    "demo": ("service.cli.demo:demo", "train on the built-in digits, export, verify, serve"),
}


def build_app(verb_used: str = "") -> App:
    """The command line with every verb registered by its import path, so that none is imported yet.

    The verb that is used takes its help from its docstring, the others from the table.
    """
    app = App(
        name="convscope",
        help="Train, export, serve and look inside convolutional image classifiers.",
        version="0.1.0",
        result_action="return_value",
    )
    for verb, (path, about) in VERBS.items():
        app.command(path, name=verb, **({} if verb == verb_used else {"help": about}))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the work failed, 2 bad arguments, 130 interrupted.

    Errors are one line on standard error; `--debug` (or CONVSCOPE_DEBUG=1) shows the traceback instead.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--debug"]
    debug = len(words) < len(given) or os.environ.get("CONVSCOPE_DEBUG") == "1"
    try:
        status = build_app(*words[:1])(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads the output has seen enough, `head` for example
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (CycloptsError, ValueError, OSError, RuntimeError) as error:
        if debug:
            raise
        print(f"convscope: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, CycloptsError) else 1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
