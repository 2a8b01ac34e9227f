"""Options for finding and loading data, shared by every command that does."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from models.cores import available_cores
from models.errors import UserError
from models.images.errors import ImageError, ImageTooLarge
from models.images.header import DEFAULT_LIMIT_PIXELS

MEMORY_LIMIT_MB = 4096
MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Location of the images, and the limit for keeping them in memory.

    Attributes:
        data_dir: Searched first for data files; then CONVSCOPE_DATA_DIR, then ./data.
        memory_limit_mb: Folders larger than this when decoded and resized are decoded again for every epoch or use.
        workers: Processes that decode in that case [default: one per available core, up to 8].
        image_limit_pixels: Largest image, as width x height of what is decoded: a JPEG that is decoded at an eighth of
            its sides may have 8 times as many.
    """

    data_dir: Path | None = None
    memory_limit_mb: int = MEMORY_LIMIT_MB
    workers: int | None = None
    image_limit_pixels: int = DEFAULT_LIMIT_PIXELS

    def check(self) -> None:
        """Raises UserError if a number is negative, or the largest image has no pixels."""
        if self.memory_limit_mb < 0 or (self.workers or 0) < 0:
            raise UserError(
                f"--memory-limit-mb is {self.memory_limit_mb} and --workers {self.workers}; both must be at least 0"
            )
        if self.image_limit_pixels < 1:
            raise UserError(f"--image-limit-pixels is {self.image_limit_pixels}; it must be at least 1")

    @property
    def directories(self) -> tuple[Path, ...]:
        """The folders searched for data files, in order. Reads the environment."""
        return tuple(Path(place) for place in (self.data_dir, os.environ.get("CONVSCOPE_DATA_DIR"), "data") if place)

    @property
    def worker_count(self) -> int:
        """The number of processes that decode."""
        return min(MAX_WORKERS, available_cores()) if self.workers is None else self.workers


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """The same for training, which may also download files and skip damaged ones.

    Attributes:
        download: Download missing data files.
        skip_bad: Leave damaged files of a folder out; config.json counts them and names the first.
    """

    download: bool = False
    skip_bad: bool = False

    def to_flags(self) -> list[str]:
        """The command's flags for values that differ from the defaults, except --download."""
        flags: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default and option.name != "download":
                flags += [f"--{option.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return flags


SOURCE_DEFAULTS = SourceOptions()
DATA_DEFAULTS = DataOptions()


def reason_of(error: ImageError) -> str:
    """The message of an image that cannot be used; that of one over the limit names the flag."""
    return f"{error}; --image-limit-pixels raises it" if type(error) is ImageTooLarge else str(error)
