"""model.aoti.pt2: the graph compiled ahead of time by AOTInductor, for this kind of processor and this torch only."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

from export.artifact.identity import KEY, FileIdentity, describe
from export.writers.pt2 import export_program
from models.checkpoint.directory import Checkpoint
from models.errors import UserError
from models.images.decode import Pixels


def write_aoti(checkpoint: Checkpoint, example: Pixels, path: Path, *, identity: FileIdentity | None = None) -> None:
    """Compiles with a free batch, for the CPU, and writes the package without sources and debugging information.

    It takes a minute. The package holds machine code that runs when it is opened; the server never opens one.

    Args:
        example: uint8 (N, H, W, C), N at least 2.

    Raises:
        ValueError: torch refuses the network, or there is no C++ compiler.
    """
    if not (shutil.which("g++") and shutil.which("strip")):
        raise UserError("aoti needs the commands g++ and strip (Debian: apt-get install g++), which are not here")
    program = export_program(checkpoint, example)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "whole.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(package))
        except Exception as error:  # raised by the compiler, torch or Python
            raise UserError(f"AOTInductor cannot compile the network: {str(error).splitlines()[0]}") from None
        with zipfile.ZipFile(package) as whole, zipfile.ZipFile(path, "w") as stripped:
            for entry in whole.namelist():
                if entry.endswith(".cpp"):
                    continue
                content = whole.read(entry)
                stripped.writestr(entry, _anonymous(content, Path(folder)) if entry.endswith(".so") else content)
            stripped.writestr(f"{KEY}.json", describe(checkpoint.config, identity))


def _anonymous(library: bytes, folder: Path) -> bytes:
    """The library without symbols, with folders of this machine in its error messages replaced by dots."""
    file = folder / "library.so"
    file.write_bytes(library)
    subprocess.run(["strip", "--strip-all", str(file)], check=True)
    library = file.read_bytes()
    for place in (cache_dir(), str(Path(torch.__file__).parents[1]), sys.base_prefix):
        library = library.replace(place.encode(), b"." * len(place.encode()))
    return library
