"""The options that every section of the measurements receives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how to measure.

    Attributes:
        device: of engines, servers and trainings.
        quick: small sizes and short runs, to try the measurements on a CPU.
        data: folder with `MNIST/raw` and `cifar10-jpeg`; None if there is none.
        work: scratch folder, for checkpoints, artifacts and logs; sections share what is in it.
    """

    device: Literal["cuda", "cpu"]
    quick: bool
    data: Path | None
    work: Path
