"""The floor of a Python server: one route that decodes, runs and answers inline, with no batching, limits or checks."""

import io
import os

import numpy as np
import onnxruntime
import orjson
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = int(os.environ.get("THREADS", "1"))
_session = onnxruntime.InferenceSession(os.environ["MODEL"], _options, providers=["CPUExecutionProvider"])
_height, _width, _channels = _session.get_inputs()[0].shape[1:]


async def classify(request: Request) -> Response:
    """Image bytes in, the five most probable classes out."""
    image = Image.open(io.BytesIO(await request.body())).convert("L" if _channels == 1 else "RGB")
    pixels = np.asarray(image.resize((_width, _height))).reshape(1, _height, _width, _channels)
    (probabilities,) = _session.run(["probabilities"], {"image": pixels})
    best = np.argsort(-probabilities[0])[:5]
    answer = [{"index": int(index), "probability": float(probabilities[0, index])} for index in best]
    return Response(orjson.dumps(answer), media_type="application/json")


async def ready(request: Request) -> Response:
    """Answers once the session is open."""
    return Response("ready")


app = Starlette(routes=[Route("/classify", classify, methods=["POST"]), Route("/ready", ready)])
