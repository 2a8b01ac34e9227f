"""Tracing, if OpenTelemetry is configured for this process, for example by `opentelemetry-instrument`."""

from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.propagate import extract
from starlette.types import ASGIApp, Receive, Scope, Send

from service.telemetry.request_context import current


class Traced:
    """Answers each request within a server span of the trace named in the request's headers.

    Args:
        app: the wrapped application.
        route_of: the route template of an answered scope.
        provider: the tracer provider.
    """

    def __init__(self, app: ASGIApp, route_of: Callable[[Scope], str], provider: trace.TracerProvider) -> None:
        self._app = app
        self._route_of = route_of
        self._tracer = provider.get_tracer("convscope")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request with the span as the current one."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, request = scope["method"], current()
        with self._tracer.start_as_current_span(method, context=extract(headers), kind=trace.SpanKind.SERVER) as span:
            ids = span.get_span_context()
            request.trace = {
                "trace_id": trace.format_trace_id(ids.trace_id),
                "span_id": trace.format_span_id(ids.span_id),
            }
            try:
                await self._app(scope, receive, send)
            finally:  # names by OpenTelemetry's semantic conventions for HTTP
                route = self._route_of(scope)
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.request.method": method, "http.route": route})
                span.set_attributes({"http.response.status_code": request.status})
                span.set_attributes({"convscope.request_id": request.request_id, "convscope.model": request.model_name})
                if request.code:
                    span.set_attribute("error.type", request.code)
                if request.status >= 500:
                    span.set_status(trace.StatusCode.ERROR, request.message)


def traced(app: ASGIApp, route_of: Callable[[Scope], str]) -> ASGIApp:
    """`app` with a span for each request, or `app` itself if no tracer provider is configured."""
    provider = trace.get_tracer_provider()
    return app if isinstance(provider, trace.ProxyTracerProvider) else Traced(app, route_of, provider)
