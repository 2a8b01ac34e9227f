"""The options that every section of the measurements receives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurements.

    Attributes:
        device: for engines, servers and trainings.
        quick: small sizes and short runs, to try the measurements on a CPU.
        data: folder with `MNIST/raw` and `cifar10-jpeg`, or None.
        work: scratch folder for checkpoints, artifacts and logs, shared by all sections.
        only: measure only rows of engines, batch jobs and trainings whose names have one of these; empty for all.
    """

    device: Literal["cuda", "cpu"]
    quick: bool
    data: Path | None
    work: Path
    only: tuple[str, ...] = ()

    def includes(self, name: str) -> bool:
        """True if a row of this name is measured."""
        return not self.only or any(part in name for part in self.only)
