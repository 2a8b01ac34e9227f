"""BentoML as in its documentation: an endpoint that takes a list of images and is batched by BentoML."""

from typing import Any

import bentoml
import numpy as np
from model import Model, best
from PIL import Image


@bentoml.service
class Usual:
    """Images as a form's files in, the five most probable classes of each out."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000, route="/classify")
    def classify(self, images: list[Image.Image]) -> list[list[dict[str, Any]]]:
        """A whole batch, images decoded by BentoML."""
        return [best(row) for row in self.model.run(np.stack([self.model.fit(image) for image in images]))]
