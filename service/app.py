"""The BentoML service: processes, workers and lifecycle are BentoML's; what is answered is in `service.http`.

BentoML reads a service's configuration when its module is imported, so this module alone reads the settings then.
"""

import gc
from typing import Annotated

import bentoml
import numpy as np
import orjson
from bentoml.exceptions import InvalidArgument, ServiceUnavailable
from bentoml.validators import DType
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from service.catalog import Catalog
from service.errors import ModelNotReady, QueueFull, RequestError
from service.gate import Gate, as_pixels
from service.http import build_http
from service.settings import read_settings

SETTINGS = read_settings()
CATALOG = Catalog(SETTINGS)


@bentoml.service(
    name="convscope",
    workers=SETTINGS.workers,
    traffic={"timeout": SETTINGS.deadline_s + 5},  # ours comes first and answers in our shape
    # These three cost more than a small network's inference does; what they would tell, our own layers do.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(build_http(CATALOG, SETTINGS), path="/")
class Classifier:
    """Serves every artifact under CONVSCOPE_ARTIFACTS."""

    def __init__(self) -> None:
        CATALOG.open()  # raises nothing: a worker that fails to start would be started for ever
        gc.collect()
        gc.freeze()  # what is loaded stays; the collector need not look at it again

    @bentoml.api  # type: ignore[untyped-decorator]  # bentoml ships no types for it
    async def predict(
        self, images: Annotated[np.ndarray, DType("uint8"), BeforeValidator(as_pixels)], model: str = ""
    ) -> np.ndarray:
        """Class probabilities, float32 (N, K), of uint8 images (N, H, W, C) that have the network's size already."""
        try:
            served = CATALOG.find(model or None)
            if images.ndim != 4 or images.shape[1:] != served.manifest.input.shape:
                wanted = ", ".join(map(str, served.manifest.input.shape))
                raise InvalidArgument(
                    f"images have the shape {images.shape}; {served.manifest.name} takes (N, {wanted})"
                )
            if not 1 <= len(images) <= SETTINGS.images_per_request:
                raise InvalidArgument(f"{len(images)} images; a request may hold 1 to {SETTINGS.images_per_request}")
            probabilities, _ = await served.batcher.submit(images)
        except (ModelNotReady, QueueFull) as error:
            raise ServiceUnavailable(str(error)) from None
        except RequestError as error:
            raise InvalidArgument(str(error)) from None
        return probabilities

    async def __is_ready__(self) -> bool:
        """Whether every artifact is loaded and gave its golden answers; says why not.

        Raises:
            HTTPException: 503 with the reason, in the shape of all our errors.
        """
        if reason := CATALOG.not_ready:
            body = orjson.dumps({"error": {"code": ModelNotReady.code, "message": reason}}).decode()
            raise HTTPException(503, detail=body, headers={"content-type": "application/json"})
        return True


Classifier.add_asgi_middleware(Gate, settings=SETTINGS)  # type: ignore[attr-defined]  # bentoml's decorator adds it
