"""Measurements on a GPU: serving, engines, inspection, batch jobs and training, in one run of a few minutes.

    python -m benchmarks.gpu --out results --data ../shared/data
    python -m benchmarks.gpu --device cpu --quick --sections serving,inspection

Every result is printed as it arrives and kept in `--out`, so an interrupted run loses nothing.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.gpu.options import Options

ROOT = Path(__file__).parents[2]
# Each section gets this share of the remaining time, in proportion to the shares of the sections still to run.
SHARES = {"serving": 4, "engines": 2.5, "inspection": 2, "batch": 2, "training": 2.5}


def main() -> None:
    """Parses the arguments, installs any given packages, and runs the sections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measures on a GPU in minutes.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small sizes and short runs, to try it on a CPU")
    parser.add_argument("--sections", default=",".join(SHARES), help="with commas between them; default: all")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json, which are complete after every row")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which nothing new is begun")
    parser.add_argument("--wheels", type=Path, nargs="+", help="parts that benchmarks.gpu.packages collected")
    parser.add_argument("--data", type=Path, help="folder with MNIST/raw and cifar10-jpeg")
    parser.add_argument("--only", default="", help="measure only rows whose names have one of these, split at commas")
    parser.add_argument("--work", type=Path, help="scratch folder that is kept, with artifacts and logs")
    given = parser.parse_args()
    sections = [name for name in given.sections.split(",") if name]
    if unknown := [name for name in sections if name not in SHARES]:
        parser.error(f"no section is called {unknown[0]!r}; known are {', '.join(SHARES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that servers are stopped
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory(prefix="convscope-gpu-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if given.wheels:
            sys.exit(_run_with_wheels(given, Path(temporary)))
        only = tuple(part for part in given.only.split(",") if part)
        options = Options(device=given.device, quick=given.quick, data=given.data, work=work, only=only)
        _run(sections, options, given.out, 60 * given.minutes)


def _run_with_wheels(given: argparse.Namespace, folder: Path) -> int:
    """Installs the parts into a folder and runs this command again with it; returns the exit status."""
    from benchmarks.gpu.packages import install

    began, data = time.monotonic(), folder / "data"
    site = install(given.wheels, folder / "site", data_out=data)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
    words = [sys.executable, "-m", "benchmarks.gpu", "--device", given.device, "--sections", given.sections]
    words += ["--minutes", str(given.minutes - (time.monotonic() - began) / 60)]
    words += [*(["--quick"] if given.quick else []), "--only", given.only]
    for name, path in (("--out", given.out), ("--work", given.work), ("--data", given.data or data)):
        words += [name, str(path)] if path and (path != data or path.is_dir()) else []
    with subprocess.Popen(words) as process:
        try:
            return process.wait()
        finally:
            process.terminate()


def _run(sections: list[str], options: Options, out: Path | None, seconds: float) -> None:
    from benchmarks.gpu.report import Budget, Report, last_line

    report, budget = Report(out, options.device), Budget(seconds)
    for index, name in enumerate(sections):
        share = SHARES[name] / sum(SHARES[later] for later in sections[index:])
        try:
            importlib.import_module(f"benchmarks.gpu.{name}").run(report, budget.part(share), options)
        except Exception as error:  # a failed section does not stop the others
            traceback.print_exc()
            report.note(f"the section {name} ended early: {last_line(error)}")
        _release_memory()
    report.note(f"{seconds - budget.left_s:.0f} of {seconds:.0f} s were used")


def _release_memory() -> None:
    """Releases the GPU memory of a section in this process, as the next one may run in another process."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
