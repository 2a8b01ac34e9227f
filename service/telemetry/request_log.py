"""The log: a line for each failed request, or for every request, as text or JSON."""

import logging
import sys
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from service.settings import Settings
from service.telemetry.request_context import RequestContext

NAME = "bentoml.convscope"  # a child of the logger that BentoML configures
_MESSAGE_LIMIT = 500
log = logging.getLogger(NAME)


def configure_logging(settings: Settings, *, worker: int | None = None) -> None:
    """Sets the level of our lines and, for JSON, the format of this process; call it after BentoML's configuration.

    Args:
        settings: the server's settings.
        worker: number of this worker, from 1; None in the process that starts the workers.
    """
    log.setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn.access").propagate = False  # it would format an unused line for each request
    # It warns about requests that are not HTTP; they never reach us, and any client can cause any number of them.
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno != logging.WARNING)
    if settings.log_format == "json":
        handler = logging.StreamHandler(sys.stdout)
        renamed = {"levelname": "level", "name": "logger", "process": "pid"}
        names, fixed = ["levelname", "name", "message", "process"], {} if worker is None else {"worker": worker}
        handler.setFormatter(JsonFormatter(names, rename_fields=renamed, timestamp="time", static_fields=fixed))
        logging.getLogger().handlers[:] = [handler]
        for name in ("bentoml", "uvicorn.error", "circus"):  # those with handlers from BentoML
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True


def log_request(request: RequestContext, method: str, route: str, seconds: float, *, log_all: bool) -> None:
    """Writes a request's line: WARNING for 5xx and, as any client can cause any number of them, DEBUG for 4xx.

    Args:
        request: the request.
        method, route: its method, and the template of its route.
        seconds: its duration.
        log_all: INFO for everything but 5xx.
    """
    if request.status >= 500:
        level = logging.WARNING if request.failure is None else logging.ERROR
    else:
        level = logging.INFO if log_all else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "method": method,
        "route": route,
        "status": request.status,
        "duration_ms": round(1000 * seconds, 3),
        "model": request.model_name,
        "code": request.code,
        **(request.trace or {}),
    }
    log.log(level, "%s", _line(fields, request.message), extra=fields, exc_info=request.failure)


def _line(fields: dict[str, Any], message: str) -> str:
    said = f" {fields['code']}: {message}" if fields["code"] else ""
    model = f", model {fields['model']}" if fields["model"] else ""
    about = f"({fields['duration_ms']} ms, request {fields['request_id']}{model})"
    return f"{_printable(fields['method'])} {fields['route']} {fields['status']}{_printable(said)} {about}"


def _printable(text: str) -> str:
    """One line of bounded length, as parts of it come from the client."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_MESSAGE_LIMIT])
