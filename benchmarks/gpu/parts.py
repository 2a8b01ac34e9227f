"""Parts: folders small enough to carry one by one, each with a `SHA256SUMS` as `sha256sum` writes it.

A file that is too large for one part is split into pieces, one per part: `NAME.part-01-of-04`. The sums of such a part
also contain the hash of the whole file.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.files import sha256_of

SUMS = "SHA256SUMS"
_PIECE = re.compile(r"(?P<whole>.+)\.part-(?P<number>\d+)-of-(?P<count>\d+)")


class PartError(RuntimeError):
    """A part that is missing, damaged or too large; the message names it."""


@contextmanager
def new_part(folder: Path, limit_bytes: int) -> Iterator[Path]:
    """Yields a scratch folder for the content; afterwards adds the sums and renames it to `folder`.

    Raises:
        PartError: the content is larger than `limit_bytes`; `folder` stays unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
        staging = Path(scratch, folder.name)
        staging.mkdir()
        yield staging
        files = [path for path in sorted(staging.rglob("*")) if path.is_file() and path.name != SUMS]
        if (size := sum(path.stat().st_size for path in files)) > limit_bytes:
            raise PartError(f"the part {folder.name} has {size / 1e6:.1f} MB; the limit is {limit_bytes / 1e6:g} MB")
        with (staging / SUMS).open("a") as sums:
            sums.writelines(f"{sha256_of(path)}  {path.relative_to(staging).as_posix()}\n" for path in files)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)


def find_parts(path: Path) -> list[Path]:
    """The folder itself if it is a part, or else the parts in it.

    Raises:
        PartError: there are none.
    """
    if (path / SUMS).is_file():
        return [path]
    if parts := sorted(sums.parent for sums in path.glob(f"[!.]*/{SUMS}")):
        return parts
    raise PartError(f"{path} is no part and holds none: {SUMS} is missing")


def check_part(folder: Path) -> None:
    """Hashes every file.

    Raises:
        PartError: a file is missing or has changed.
    """
    sums = _sums_of(folder)
    wholes = {match["whole"] for name in sums if (match := _PIECE.fullmatch(name))}
    for name, wanted in sums.items():
        if name in wholes:
            continue
        if not (folder / name).is_file():
            raise PartError(f"{folder / name} is missing")
        if sha256_of(folder / name) != wanted:
            raise PartError(f"{folder / name} is damaged: its SHA-256 is not that in {SUMS}; bring it again")


def cut(file: Path, out: Path, name: str, *, limit_bytes: int) -> list[Path]:
    """Cuts a file into the parts `out/name-1`, `out/name-2` and so on.

    Returns:
        The pieces.
    """
    count = -(-file.stat().st_size // limit_bytes)
    whole, pieces = f"{sha256_of(file)}  {file.name}\n", []
    with file.open("rb") as source:
        for number in range(1, count + 1):
            part, piece = out / f"{name}-{number}", f"{file.name}.part-{number:02}-of-{count:02}"
            with new_part(part, limit_bytes) as folder:
                (folder / SUMS).write_text(whole)
                (folder / piece).write_bytes(source.read(limit_bytes))
            pieces.append(part / piece)
    return pieces


def pieces_in(parts: Iterable[Path]) -> dict[str, dict[int, Path | None]]:
    """The pieces in parts, by the name of the whole file and their number from 1; None for missing ones."""
    found: dict[str, dict[int, Path | None]] = {}
    for path in sorted(path for part in parts for path in part.glob("*.part-*")):
        if match := _PIECE.fullmatch(path.name):
            missing: dict[int, Path | None] = dict.fromkeys(range(1, int(match["count"]) + 1))
            found.setdefault(match["whole"], missing)[int(match["number"])] = path
    return found


def join(pieces: Sequence[Path], folder: Path) -> Path:
    """Joins the pieces of a file, given in their order.

    Returns:
        The whole file, in `folder`.

    Raises:
        PartError: its SHA-256 differs from the one recorded beside the first piece.
    """
    whole = folder / _PIECE.sub(r"\g<whole>", pieces[0].name)
    with whole.open("wb") as target:
        for piece in pieces:
            with piece.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
    if sha256_of(whole) != _sums_of(pieces[0].parent)[whole.name]:
        raise PartError(f"the parts of {whole.name} do not give the file that was cut; bring all of them again")
    return whole


def _sums_of(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_text().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
