"""From probabilities to the labels of an answer."""

from typing import Any

from export.artifact import Manifest
from export.engine import Floats

DEFAULT_TOP_K = 5


def top_predictions(probabilities: Floats, classes: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` most probable classes of one image, most probable first; equal ones in the order of the classes.

    Args:
        probabilities: (K,).
        classes: K names.
        top_k: from 1 to K.
    """
    order = (-probabilities).argsort(kind="stable")[:top_k]
    return [{"label": classes[index], "index": index, "probability": probabilities[index]} for index in order.tolist()]


def default_top_k(manifest: Manifest) -> int:
    """Five, or all classes where there are fewer."""
    return min(DEFAULT_TOP_K, len(manifest.classes))
