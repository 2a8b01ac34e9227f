"""The server's own routes: health and the schema for BentoML's client, which BentoML answers, and metrics."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from service.context import ServerContext
from service.errors import ModelNotReady
from service.http.route import Route
from service.openapi.schema import TEXT, as_json
from service.telemetry.prometheus import PrometheusCollector

_HEALTH = {"text/plain": {"schema": TEXT}}
BENTOML_ROUTES = [
    Route(
        "GET",
        "/livez",
        None,
        _HEALTH,
        public=True,
        summary="Liveness: 200 while the server runs",
        operation_id="is_live",
    ),
    Route("GET", "/healthz", None, _HEALTH, public=True, summary="The same as /livez", operation_id="is_healthy"),
    Route(
        "GET",
        "/readyz",
        None,
        _HEALTH,
        errors=(ModelNotReady,),
        public=True,
        summary="Readiness: 200 once every artifact gave its golden answers, or the reason it did not",
        operation_id="is_ready",
    ),
    Route(
        "GET",
        "/schema.json",
        None,
        as_json({"type": "object"}),
        summary="Schema of /predict for BentoML's own client",
        operation_id="get_schema",
    ),
]
NATIVE = tuple(route.path for route in BENTOML_ROUTES)


def routes(context: ServerContext) -> list[Route]:
    """The routes, except that of the OpenAPI document."""

    async def metrics(request: Request) -> Response:
        """Metrics of all workers for Prometheus."""
        snapshots, accept = await context.metrics.snapshots(), request.headers.get("accept", "")
        # Not on the event loop: a thousand classes take some milliseconds.
        body, content_type = await asyncio.to_thread(lambda: PrometheusCollector(snapshots).encode(accept))
        return Response(body, headers={"content-type": content_type})

    text = {"schema": TEXT}
    answers = {"text/plain": text, "application/openmetrics-text": text}
    return [*BENTOML_ROUTES, Route("GET", "/metrics", metrics, answers, operation_id="get_metrics")]
