"""Facts about a request, collected while it is answered, for metrics and logs."""

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count

REQUEST_ID = b"x-request-id"
_SANE = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class RequestContext:
    """One request.

    Attributes:
        id: the client's request id, or a generated one; printable ASCII.
        status: of the answer; 0 before it begins, also if the client disconnects first.
        model: name and version of the requested model, if it is served.
        decode_s: time spent on decoding its images.
        code, message: of the error response, if any.
        failure: an unexpected exception.
        image_codes: error codes of single images in an otherwise successful answer.
        trace: trace_id and span_id, if OpenTelemetry is configured.
    """

    id: bytes
    status: int = 0
    model: tuple[str, str] = ("", "")
    decode_s: float = 0.0
    code: str = ""
    message: str = ""
    failure: BaseException | None = None
    image_codes: tuple[str, ...] = ()
    trace: dict[str, str] | None = None

    @property
    def request_id(self) -> str:
        """The id as a string."""
        return self.id.decode("ascii")

    @property
    def model_name(self) -> str:
        """`name:version`, or empty."""
        return ":".join(filter(None, self.model))

    def fail(self, code: str, message: str, failure: BaseException | None = None) -> None:
        """Records the error that answers this request."""
        self.code, self.message, self.failure = code, message, failure


CURRENT: ContextVar[RequestContext | None] = ContextVar("observation", default=None)


def current() -> RequestContext:
    """The context of the current request; an unused one outside of requests."""
    return CURRENT.get() or RequestContext(b"")


class RequestIds:
    """Takes a request's id from its header, or generates one: a random prefix of this process and a number."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:16].encode()
        self._numbers = count()

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The id of a request; the client's if it is 1 to 128 printable ASCII characters without a space."""
        for name, value in headers:
            if name == REQUEST_ID and _SANE.fullmatch(value):
                return value
        return b"%b%08x" % (self._prefix, next(self._numbers))
