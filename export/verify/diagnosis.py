"""Explains why an exported file differs from the trained network, as far as running both again can show."""

import numpy as np

from export.engines.protocol import Run
from models.images.decode import Floats, Pixels

_SHIFTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)  # grey levels
_MEND = 0.25  # an explanation leaves at most this share of the mean difference


def diagnose(run: Run, reference: Run, images: Pixels) -> str:
    """A clause to append to an error, or an empty string if no explanation fits.

    Args:
        run: the exported file, which gives wrong results for these images.
        reference: the trained network.
        images: uint8 (N, H, W, C), some dozens.
    """
    try:
        return _first_that_fits(run, reference, images)
    except Exception:  # the file does not run with this batch either; engines share no exception
        return ""


def _first_that_fits(run: Run, reference: Run, images: Pixels) -> str:
    found, wanted = run(images)[0], reference(images)[0]
    if _alike(np.sort(found, axis=1), np.sort(wanted, axis=1)) and not _alike(found, wanted):
        return "; the same numbers stand in another order, so the classes are swapped"
    if not _alike(found, run(images)[0]) or not _alike(found[:1], run(images[:1])[0]):
        return (
            "; an image's answer changes from run to run or with the other images of its batch, so the file was "
            "written in training mode"
        )
    if images.shape[3] == 3 and _mends(run(images[..., ::-1].copy())[0], found, wanted):
        return "; with red and blue exchanged it agrees, so the order of the channels is wrong"
    for shift in _SHIFTS:
        brighter = np.clip(images.astype(np.int16) + shift, 0, 255).astype(np.uint8)
        if _mends(run(brighter)[0], found, wanted):
            return (
                f"; with images about {shift} grey levels brighter it agrees, so the mean that is subtracted is wrong"
            )
        if _mends(reference(brighter)[0], wanted, found):
            return f"; with images about {shift} grey levels darker it agrees, so the mean that is subtracted is wrong"
    return ""


def _alike(first: Floats, second: Floats) -> bool:
    return np.allclose(first, second, atol=1e-4)


def _mends(tried: Floats, before: Floats, wanted: Floats) -> bool:
    return float(np.abs(tried - wanted).mean()) < _MEND * float(np.abs(before - wanted).mean())
