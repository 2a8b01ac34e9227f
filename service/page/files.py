"""The page's files as they are sent: without comments and indentation, and compressed once, when the server starts.

Their private names become short ones.
"""

import gzip
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import ascii_letters

from rcssmin import cssmin
from rjsmin import jsmin
from starlette.requests import Request
from starlette.responses import Response

from service.http.caching import etag_of, not_modified

_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}
_PRIVATE = re.compile(r"(\.#|^  (?:async |get )?#)(\w+)", re.MULTILINE)  # where it is used, and where it is declared
_CONSTANTS = re.compile(r"^const \[?([A-Z_, ]+)\]? = ", re.MULTILINE)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}


@dataclass(frozen=True)
class PageFile:
    """One file of the page, in the two forms that clients accept."""

    media_type: str
    plain: bytes
    compressed: bytes
    etag: str

    def respond(self, request: Request) -> Response:
        """The file, gzipped for a client that accepts it; 304 for a client that has it."""
        known = not_modified(request, self.etag)
        if known is not None:
            return known
        headers = _HEADERS | {"etag": self.etag}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.plain, media_type=self.media_type, headers=headers)
        headers["content-encoding"] = "gzip"
        return Response(self.compressed, media_type=self.media_type, headers=headers)


def page_files() -> dict[str, PageFile]:
    """The page, its scripts and its styles: all in this folder and below it, by path."""
    folder = Path(str(files(__package__)))
    found = sorted(path for path in folder.rglob("*") if path.suffix in _TYPES)
    return {path.relative_to(folder).as_posix(): _read(path) for path in found}


def _read(path: Path) -> PageFile:
    plain = _MINIFIERS[path.suffix](path.read_text("utf-8")).encode()
    compressed = gzip.compress(plain, mtime=0)
    return PageFile(_TYPES[path.suffix], plain, compressed, etag_of(plain))


def _script(text: str) -> str:
    """Shortens private members and a file's own constants, which no other file can name."""
    names: dict[str, str] = {}

    def short(found: re.Match[str]) -> str:
        return f"{found[1]}{names.setdefault(found[2], ascii_letters[len(names)])}"

    text = _PRIVATE.sub(short, text)
    for place, name in enumerate(re.findall("[A-Z_]+", " ".join(_CONSTANTS.findall(text)))):
        text = re.sub(rf"\b{name}\b", f"${ascii_letters[place]}", text)
    return re.sub(r"\bconst\b", "let", str(jsmin(text)))


def _style(text: str) -> str:
    return str(cssmin(text))


def _document(text: str) -> str:
    return re.sub(r'="([\w-]+)"', r"=\1", re.sub(r"\n\s+", "\n", text))


_MINIFIERS = {".css": _style, ".js": _script, ".html": _document}
