"""Atomic writing of files, and their SHA-256."""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from models.errors import ConvscopeError

# Raised by numpy.load and access to its arrays for missing, damaged or other files.
NPZ_ERRORS = (OSError, KeyError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class UnwritableError(ConvscopeError, OSError):
    """A file or directory that cannot be written; the message names it and the reason."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` on success, removes it on an exception.

    Raises:
        UnwritableError: the disk is full, for example; an existing file at `path` stays unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a read-only folder does not allow removal either
            temporary.unlink()
        if isinstance(error, Exception) and (reason := _system_reason(error)):
            raise UnwritableError(f"{path} cannot be written: {reason}") from error
        raise


def printable(path: Path | str) -> str:
    """A path as text; bytes that are not UTF-8 are escaped, as in `caf\\xe9.png`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_writable(directory: Path) -> None:
    """Raises UnwritableError unless the directory can be written or, where absent, created; creates nothing."""
    there = directory
    try:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = f"no file can be made in {there} ({error.strerror})"
        raise UnwritableError(f"the directory {directory} cannot be written: {reason}; give another") from error


def _system_reason(error: BaseException | None) -> str | None:
    """The system's reason for an error, if there is one; libraries wrap it in their own exceptions."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if code := re.search(r"\(os error (\d+)\)", str(error)):  # Rust's wording, used by safetensors
            return os.strerror(int(code[1]))
        error = error.__cause__ or error.__context__
    return None


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
