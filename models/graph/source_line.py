"""The line of a network's own source that tracing is at, for messages."""

import linecache
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torchvision.models import feature_extraction

_PACKAGES = tuple(str(Path(__file__).parents[2] / name) for name in ("models", "training"))
_TORCH = str(Path(torch.__file__).parent)
_TRACING = (str(Path(__file__).parent), feature_extraction.__file__)
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@dataclass(frozen=True)
class SourceLine:
    """A line of a file, as `file:line`."""

    file: str
    number: int

    def __str__(self) -> str:
        path = Path(self.file)
        return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{self.number}"

    @property
    def quoted(self) -> str:
        """The place and the line itself, in brackets, for the end of a message."""
        return f" ({self}: `{self.text}`)" if self.text else f" ({self})"

    @property
    def text(self) -> str:
        """The line itself; empty if the file cannot be read."""
        return linecache.getline(self.file, self.number).strip()


def current_line(frame: FrameType | None) -> SourceLine | None:
    """The innermost line of user code that leads to `frame`; None if there is none since tracing began."""
    frames: list[SourceLine] = []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TRACING) and frame.f_code.co_name == "trace_graph":
            break
        frames.append(SourceLine(file, frame.f_lineno))
        frame = frame.f_back
    return _innermost(frames)


def users_line(trace: TracebackType | None) -> SourceLine | None:
    """The innermost line of an exception's traceback that is neither in a library nor in our packages."""
    line = failed_line(trace)
    return None if line is None or line.file.startswith((*_LIBRARIES, _TORCH, *_PACKAGES)) else line


def failed_line(trace: TracebackType | None) -> SourceLine | None:
    """The innermost line of user code in an exception's traceback; None if there is none."""
    return _innermost(SourceLine(file.filename, file.lineno or 0) for file in reversed(traceback.extract_tb(trace)))


def _innermost(lines: Iterable[SourceLine]) -> SourceLine | None:
    """The first line outside all libraries, or the first outside torch."""
    there = [line for line in lines if not line.file.startswith((_TORCH, "<", *_TRACING))]
    own = (line for line in there if not line.file.startswith(_LIBRARIES))
    return next(own, next(iter(there), None))
