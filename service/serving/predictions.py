"""From probabilities to the labels of an answer."""

from typing import Any

from export.artifact.manifest import Manifest
from models.images.decode import Floats
from service.errors import UnknownParameter
from service.settings import Limit

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


def check_top_k(top_k: int, limit: Limit) -> None:
    """Raises UnknownParameter if so many are more than one may ask for."""
    if top_k > limit.value:
        raise UnknownParameter(f"{top_k} predictions for each image; the limit is {limit}")


def default_top_k(manifest: Manifest) -> int:
    """Five, or all classes where there are fewer."""
    return min(DEFAULT_TOP_K, len(manifest.classes))
