"""Parity: an exported file against the trained network, on real images, at several batch sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.cause import find_cause
from export.engine import Floats, Run
from models.inputs import Pixels

BATCHES = (1, 2, 7, 64, 256)  # the last is the most images a request brings unless a setting says otherwise
LIMIT_FP32 = 1e-5


class ParityError(ValueError):
    """An exported file that does not do what the trained network does; the message says which image and by how much."""


@dataclass(frozen=True)
class Parity:
    """What a comparison found; differences are of probabilities, agreement is of the first class, in [0, 1].

    `limit` is what every difference had to stay under; None if there was none.
    """

    images: int
    batches: tuple[int, ...]
    limit: float | None
    maximum_difference: float
    mean_difference: float
    top1_agreement: float


def compare(
    run: Run, reference: Run, images: Pixels, *, batches: Sequence[int] = BATCHES, limit: float | None = LIMIT_FP32
) -> Parity:
    """Compares two implementations of the same deployable graph.

    Args:
        run: the exported file.
        reference: the trained network.
        images: uint8 (N, H, W, C); every batch size sees all of them (the last batch may be short), and where there are
            fewer than a batch some of them again.
        batches: sizes to try.
        limit: largest difference of a probability that is allowed; then the first class must be the same too. None
            only measures, for precisions that are judged by their accuracy.

    Raises:
        ParityError: a shape, a number that is none, a probability beyond the limit or another first class.
    """
    expected = np.concatenate([reference(images[start : start + 64])[0] for start in range(0, len(images), 64)])
    differences: list[npt.NDArray[np.float32]] = []
    agreements: list[float] = []
    for batch in batches:
        repeated = np.resize(np.arange(len(images)), max(len(images), batch))
        parts = [repeated[start : start + batch] for start in range(0, len(repeated), batch)]
        found = np.concatenate([_checked(run, images[part], batch) for part in parts])
        wanted = expected[repeated]
        if found.shape != wanted.shape:
            raise ParityError(f"at batch {batch} the output is {found.shape}; the trained network gives {wanted.shape}")
        difference = np.abs(found - wanted).max(axis=1)
        difference = np.where(np.isfinite(difference), difference, np.inf)
        worst = int(difference.argmax())
        if difference[worst] > (np.finfo(np.float32).max if limit is None else limit):
            extent, cause = _extent(found, wanted, worst), find_cause(run, reference, images[:32])
            raise ParityError(
                f"at batch {batch} image {repeated[worst]} differs by {difference[worst]:.3g} in probability "
                f"(limit {1 if limit is None else limit:g}){extent}{cause}"
            )
        same = found.argmax(axis=1) == wanted.argmax(axis=1)
        if limit is not None and not same.all():
            wrong = repeated[np.flatnonzero(~same)[0]]
            raise ParityError(f"at batch {batch} image {wrong} is of another class than in the trained network")
        differences.append(difference)
        agreements.append(float(same.mean()))
    joined = np.concatenate(differences)
    agreement = float(np.mean(agreements))
    return Parity(len(images), tuple(batches), limit, float(joined.max()), float(joined.mean()), agreement)


def _checked(run: Run, images: Pixels, batch: int) -> Floats:
    try:
        probabilities, logits = run(images)
    except Exception as error:  # engines share no exception; a frozen batch shows as one of theirs
        raise ParityError(f"at batch {batch} the file does not run: {str(error).splitlines()[0]}") from None
    if probabilities.dtype != np.float32 or logits.dtype != np.float32:
        raise ParityError(
            f"at batch {batch} the file gives {probabilities.dtype} probabilities and {logits.dtype} logits; "
            "both must be float32"
        )
    if logits.shape != probabilities.shape:
        raise ParityError(f"at batch {batch} probabilities are {probabilities.shape}, and logits {logits.shape}")
    if len(probabilities) != len(images):
        raise ParityError(f"at batch {batch} {len(images)} images gave {len(probabilities)} rows: the batch is frozen")
    return probabilities


def _extent(found: Floats, expected: Floats, worst: int) -> str:
    count = int((np.abs(found - expected).max(axis=1) > LIMIT_FP32).sum())
    row = f"{found[worst].argmax()} with {found[worst].max():.3f}, wanted {expected[worst].argmax()} with "
    return f"; it says class {row}{expected[worst].max():.3f}; {count} of {len(found)} images differ"
