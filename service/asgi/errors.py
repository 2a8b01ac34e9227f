"""Error responses."""

from starlette.types import Send

from models.images.errors import ImageError
from service.errors import RequestError, error_answer
from service.http.responses import send_json
from service.telemetry.request_context import current


async def send_error(send: Send, error: RequestError | ImageError, path: str) -> None:
    """Sends an error in the format of the route group of `path`."""
    current().fail(error.code, str(error))
    status, body, headers = error_answer(error, path)
    await send_json(send, status, body, headers)
