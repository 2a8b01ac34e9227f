"""What becomes known of a request while it is answered, for metrics and logs."""

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
        id: the client's request id, or ours; printable ASCII.
        status: of the answer; 0 until it begins, and for ever if the client hangs up before.
        model: name and version of what was asked for, if it is served.
        decode_s: time spent on decoding its images.
        code, message: of the error it was answered with, if any.
        failure: what we did not expect.
        image_codes: codes of the errors of single images in an answer that is none as a whole.
        trace: trace_id and span_id, where OpenTelemetry is configured.
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
        """The id as text."""
        return self.id.decode("ascii")

    @property
    def model_name(self) -> str:
        """`name:version`, or nothing."""
        return ":".join(filter(None, self.model))

    def fail(self, code: str, message: str, failure: BaseException | None = None) -> None:
        """Notes the error that this request is answered with."""
        self.code, self.message, self.failure = code, message, failure


CURRENT: ContextVar[RequestContext | None] = ContextVar("observation", default=None)


def current() -> RequestContext:
    """That of the request being answered; one that nobody reads outside of any."""
    return CURRENT.get() or RequestContext(b"")


class RequestIds:
    """Takes a request's id from its header, or makes one: a random prefix of this process and a number."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:16].encode()
        self._numbers = count()

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The id of a request; the client's if it is 1 to 128 printable ASCII characters without a space."""
        for name, value in headers:
            if name == REQUEST_ID and _SANE.fullmatch(value):
                return value
        return b"%b%08x" % (self._prefix, next(self._numbers))
