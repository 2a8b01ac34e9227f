"""The floor of a Python server: one route that decodes, runs and answers inline, with no batching, limits or checks."""

import orjson
from model import Model, best
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_model = Model()


async def classify(request: Request) -> Response:
    """Image bytes in, the five most probable classes out."""
    probabilities = _model.run(_model.decode(await request.body())[None])
    return Response(orjson.dumps(best(probabilities[0])), media_type="application/json")


async def ready(request: Request) -> Response:
    """Answers once the session is open."""
    return Response("ready")


app = Starlette(routes=[Route("/classify", classify, methods=["POST"]), Route("/ready", ready)])
