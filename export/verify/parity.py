"""Parity: compares an exported file with the trained network on real images, at several batch sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from export.engines.protocol import Run
from export.verify.diagnosis import diagnose
from export.verify.limits import LIMIT_FP32
from models.errors import UserError
from models.images.decode import Floats, Pixels
from training.data.streaming import Dataset, sequential_batches

BATCHES = (1, 2, 7, 64, 256)  # the last is the default limit of images per request
_READ, _READS = 64, 7  # images per read, and reads in memory at once: divisible by batches of 1, 2, 7 and 64


class ParityError(UserError):
    """An exported file that differs from the trained network; the message names the image and the difference."""


@dataclass(frozen=True)
class Parity:
    """The result of a comparison; differences are of probabilities, agreement is of the top-1 class, in [0, 1].

    `limit` is the maximum allowed difference; None if there was no limit.
    """

    images: int
    batches: tuple[int, ...]
    limit: float | None
    maximum_difference: float
    mean_difference: float
    top1_agreement: float


def compare(
    run: Run,
    reference: Run,
    images: Pixels | Dataset,
    *,
    batches: Sequence[int] = BATCHES,
    limit: float | None = LIMIT_FP32,
) -> Parity:
    """Compares two implementations of the same deployable graph.

    Args:
        run: the exported file.
        reference: the trained network.
        images: uint8 (N, H, W, C), read 448 at a time; every batch size runs on all of them (the last batch may be
            short), and some are repeated if there are fewer than a batch.
        batches: batch sizes to compare at.
        limit: maximum difference of a probability; the top-1 class must also be the same. None only measures, for
            precisions that are judged by their accuracy.

    Raises:
        ParityError: a wrong shape, a NaN, a probability beyond the limit or another top-1 class.
    """
    differences: list[npt.NDArray[np.float32]] = []
    same: list[npt.NDArray[np.bool_]] = []
    first = 0
    for part in _parts(images):
        expected = np.concatenate([reference(part[start : start + 64])[0] for start in range(0, len(part), 64)])
        for batch in batches:
            repeated = np.resize(np.arange(len(part)), max(len(part), batch))
            runs = [repeated[start : start + batch] for start in range(0, len(repeated), batch)]
            found, wanted = np.concatenate([_checked(run, part[some], batch) for some in runs]), expected[repeated]
            difference, wrong = _differences(found, wanted, batch)
            worst = int(difference.argmax())
            if difference[worst] > (np.finfo(np.float32).max if limit is None else limit):
                extent, cause = _extent(found, wanted, worst), diagnose(run, reference, part[:32])
                raise ParityError(
                    f"at batch {batch} image {first + repeated[worst]} differs by {difference[worst]:.3g} in "
                    f"probability (limit {1 if limit is None else limit:g}){extent}{cause}"
                )
            if limit is not None and wrong.any():
                place = first + repeated[wrong.argmax()]
                raise ParityError(f"at batch {batch} image {place} is of another class than in the trained network")
            differences.append(difference)
            same.append(~wrong)
        first += len(part)
    joined, agreement = np.concatenate(differences), float(np.concatenate(same).mean())
    return Parity(len(images), tuple(batches), limit, float(joined.max()), float(joined.mean()), agreement)


def _parts(images: Pixels | Dataset) -> Iterator[Pixels]:
    """Images in chunks, so that a whole test split need not fit into memory; the same streamed or not."""
    if isinstance(images, np.ndarray):
        yield from np.split(images, range(_READ * _READS, len(images), _READ * _READS))
        return
    batches = images.batches(sequential_batches(len(images), _READ))
    while part := [batch.images.numpy() for batch in islice(batches, _READS)]:
        yield np.concatenate(part)


def _differences(found: Floats, wanted: Floats, batch: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Each image's largest difference, infinite for NaN, and whether its top-1 class differs."""
    if found.shape != wanted.shape:
        raise ParityError(f"at batch {batch} the output is {found.shape}; the trained network gives {wanted.shape}")
    difference = np.abs(found - wanted).max(axis=1)
    return np.where(np.isfinite(difference), difference, np.inf), found.argmax(axis=1) != wanted.argmax(axis=1)


def _checked(run: Run, images: Pixels, batch: int) -> Floats:
    try:
        probabilities, logits = run(images)
    except Exception as error:  # engines share no exception; a frozen batch raises one of theirs
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
