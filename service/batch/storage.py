"""Files of sources and outputs: local ones, and those of any file system that fsspec knows."""

import errno
import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from socket import gethostname
from typing import IO, Any, cast

import fsspec

from models.errors import UserError, causes
from models.files import UnwritableError

_REMOTE = ("botocore", "gcsfs", "azure")  # modules with errors that are no OSError
# Codes of S3's for credentials that it does not, or no longer, know; and names of exceptions for credentials.
_CREDENTIALS = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidClientTokenId", "NotSignedUp", "AccountProblem"),
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"),
    *("ClientAuthenticationError", "RefreshError", "DefaultCredentialsError"),
}
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"}
_GONE = {  # of a mount, or of this machine, rather than of a file
    *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
    *(errno.ESTALE, errno.ENODEV, errno.EMFILE, errno.ENFILE),
}
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}  # a file appears there when it is complete


class StorageFailed(UserError):
    """A store or a mount that refuses the credentials or does not answer: the job cannot go on, and can be resumed."""


@contextmanager
def mounted(path: str) -> Iterator[None]:
    """For reading a local path.

    Raises:
        OSError: it cannot be read.
        StorageFailed: what contains it does not answer, so that nothing else there can be read either.
    """
    try:
        yield
    except ValueError as error:  # a path with a null byte
        raise OSError(errno.EINVAL, str(error)) from None
    except OSError as error:
        if error.errno in _GONE:
            raise StorageFailed(f"{path} cannot be read: {error.strerror}") from error
        raise


def is_url(name: str) -> bool:
    """True for `s3://bucket/key` and the like, false for local paths."""
    return "://" in name


def file_system(url: str) -> Any:
    """fsspec's file system for a URL.

    Raises:
        UserError: the protocol is unknown, or its package is not installed.
    """
    try:
        return _file_system(url.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be opened: {error}") from None


@cache
def _file_system(protocol: str) -> Any:
    # Listings of millions of keys would stay in memory; and s3fs would ask for the size of each file first.
    options = {"max_concurrency": 1} if protocol in ("s3", "s3a") else {}
    return fsspec.filesystem(protocol, use_listings_cache=False, **options)


@contextmanager
def open_binary(name: str) -> Iterator[IO[bytes]]:
    """Opens a local file or a URL for reading.

    Raises:
        OSError: it cannot be read.
        StorageFailed: its store refuses the credentials or does not answer, while it is opened or read.
    """
    if not is_url(name):
        with mounted(name), open(name, "rb") as file:
            yield file
        return
    try:
        with file_system(name).open(name, "rb") as file:
            yield cast(IO[bytes], file)
    except Exception as error:  # each file system has errors of its own
        if _refuses(error) or _is_away(error):
            raise StorageFailed(f"{name} cannot be read: {_reason(error)}") from error
        raise


@contextmanager
def open_shard(name: str) -> Iterator[IO[bytes]]:
    """Opens a file with many images, as `open_binary` does.

    Raises:
        OSError: it cannot be read further.
        StorageFailed: it cannot be opened, or its store does not answer.
    """
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open_binary(name))
        except OSError as error:
            raise StorageFailed(f"{name} cannot be opened: {_reason(error)}") from error
        yield file


def read_bytes(name: str) -> bytes:
    """The content of a local file or a URL.

    Raises:
        OSError: it cannot be read, or is no regular file.
        StorageFailed: its store refuses the credentials, or its mount does not answer.
    """
    if is_url(name):
        try:
            return bytes(file_system(name).cat_file(name))
        except Exception as error:  # each file system has errors of its own
            if _refuses(error):
                raise StorageFailed(f"{name} cannot be read: {_reason(error)}") from error
            raise
    # Without waiting: a named pipe would be opened when somebody writes to it.
    with mounted(name), open(os.open(name, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        if reason := why_no_file(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, reason)
        return file.read()


def files_below(url: str, prefix: str = "", vanished: Callable[[str], None] = lambda path: None) -> Iterator[str]:
    """Paths of all files in a folder elsewhere and below it, relative to it, in an order that does not change.

    S3 is listed by pages of a thousand names, so that memory does not grow with their number; of other file systems,
    the names in one folder are in memory at a time.

    Args:
        url: of the folder.
        prefix: of the paths wanted; other file systems than S3 may give further ones.
        vanished: is called with a folder that is gone before it has been listed.

    Raises:
        UserError: it cannot be listed.
    """
    fs = file_system(url)
    root = str(fs._strip_protocol(url)).rstrip("/")
    try:
        yield from _s3_pages(fs, root, prefix) if hasattr(fs, "call_s3") else _walk(fs, root, root, vanished)
    except Exception as error:  # each file system has errors of its own
        if isinstance(error, OSError) or type(error).__module__.startswith(_REMOTE):
            raise UserError(f"{url} cannot be listed: {_reason(error)}") from error
        raise


def _s3_pages(fs: Any, root: str, prefix: str) -> Iterator[str]:
    bucket, _, folder = root.partition("/")
    folder += "/" if folder else ""
    page: dict[str, Any] = {"NextContinuationToken": None}
    while "NextContinuationToken" in page:
        token = page["NextContinuationToken"]
        following = {} if token is None else {"ContinuationToken": token}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=folder + prefix, **following)
        names = (str(found["Key"]) for found in page.get("Contents", ()))
        yield from (name[len(folder) :] for name in names if not name.endswith("/"))  # those stand for empty folders


def _walk(fs: Any, folder: str, root: str, vanished: Callable[[str], None]) -> Iterator[str]:
    """`fs.walk` would pass over errors in folders below the first."""
    try:
        found = {str(one["name"]).rstrip("/"): one["type"] == "directory" for one in fs.ls(folder, detail=True)}
    except FileNotFoundError:
        vanished(posixpath.relpath(folder, root))
        return
    found.pop(folder, None)  # an object that stands for the folder
    yield from (posixpath.relpath(path, root) for path in sorted(found) if not found[path])
    for path in sorted(found):
        if found[path]:
            yield from _walk(fs, path, root, vanished)


def why_no_file(mode: int) -> str:
    """Why something with this `st_mode` is no file; empty for a regular file."""
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return "" if stat.S_ISREG(mode) else f"not a file but {kinds.get(stat.S_IFMT(mode), 'something else')}"


class Folder:
    """A folder for output, local or of an fsspec file system.

    Args:
        name: its path or URL.
    """

    def __init__(self, name: str) -> None:
        self.name = name.rstrip("/") or "/"
        self._fs: Any = file_system(name) if is_url(name) else fsspec.filesystem("file")
        protocol = self._fs.protocol
        self._whole = not _WHOLE.isdisjoint({protocol} if isinstance(protocol, str) else protocol)
        self._local = not is_url(name)

    def place(self, name: str) -> str:
        """The path or URL of a file in the folder."""
        return os.path.join(self.name, name) if self._local else posixpath.join(self.name, name)

    def exists(self, name: str = "") -> bool:
        """True if there is such a file, or the folder."""
        return bool(self._fs.exists(self.place(name) if name else self.name))

    def names(self, below: str = "") -> list[str]:
        """Names of the files in the folder or in one below it, sorted; none if there is no such folder."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self.place(below) if below else self.name, detail=False)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(str(path).rstrip("/")) for path in found)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return bytes(self._fs.cat_file(self.place(name)))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that appears as a whole or not at all.

        Raises:
            UnwritableError: the disk is full, for example.
        """
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file for writing, which appears under its name when the block ends without an exception.

        Raises:
            UnwritableError: as for `write`.
        """
        place = self.place(name)
        folder, _, last = place.rpartition("/")
        temporary = f"{folder}/.{last}.{gethostname()}.{os.getpid()}.tmp"
        try:
            if self._whole:  # what is opened there appears when it is closed, by an exception too
                with tempfile.NamedTemporaryFile() as file:
                    yield cast(IO[bytes], file)
                    file.flush()
                    self._fs.put_file(file.name, place)
                return
            self._fs.makedirs(folder, exist_ok=True)
            with self._fs.open(temporary, "wb") as file:
                yield cast(IO[bytes], file)
                file.flush()
                if self._local:
                    os.fsync(file.fileno())
            if self._local:
                os.replace(temporary, place)
            else:
                self._fs.mv(temporary, place)
        except BaseException as error:
            if not self._whole:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
            if isinstance(error, OSError) or type(error).__module__.startswith(_REMOTE):
                raise UnwritableError(f"{place} cannot be written: {_reason(error)}") from error
            raise

    def remove(self) -> None:
        """Removes the folder and all that is in it."""
        if self._fs.exists(self.name):
            self._fs.rm(self.name, recursive=True)


def _refuses(error: BaseException) -> bool:
    """True if a store does not, or no longer, know the credentials."""
    return any(not _CREDENTIALS.isdisjoint((_code(one), type(one).__name__)) for one in causes(error))


def _is_away(error: BaseException) -> bool:
    """True if a store does not answer, or not now."""
    chain = list(causes(error))
    if any(isinstance(one, ConnectionError | TimeoutError) or _code(one) in _BUSY for one in chain):
        return True
    return any(type(one).__module__.startswith(("botocore", "aiohttp")) and not _code(one) for one in chain)


def _code(error: BaseException) -> str:
    """The code of S3's in an error of botocore's; empty for others."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
