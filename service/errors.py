"""Errors of requests, and the single table that maps them to HTTP statuses."""

import math
from typing import Any

import orjson

from models.errors import UserError
from models.images.errors import (
    EmptyImage,
    ImageError,
    ImageTooLarge,
    ImageTooNarrow,
    ImageUndecodable,
    NoFiniteScores,
    NotAnImage,
    UnsupportedMode,
)


class RequestError(UserError):
    """A request that cannot be answered; `code` is stable and machine-readable, the message is for people.

    Attributes:
        retry_after_s: seconds to wait before a retry, if the client may retry.
    """

    code = "bad_request"
    retry_after_s: float | None = None


class UnknownParameter(RequestError):
    """A query parameter that the route does not have, or a value it does not accept."""

    code = "parameter_invalid"


class MalformedBody(RequestError):
    """A body that does not match its content type."""

    code = "body_malformed"


class BodyEmpty(RequestError):
    """The body is empty."""

    code = "body_empty"


class BodyTooLarge(RequestError):
    """More bytes, images or values than allowed."""

    code = "body_too_large"


class TooManyImages(RequestError):
    """More images in one request than allowed."""

    code = "too_many_images"


class TooManyValues(RequestError):
    """More feature-map values in one answer than allowed."""

    code = "too_many_values"


class Unauthorized(RequestError):
    """No token, or a wrong one."""

    code = "unauthorized"


class UnknownModel(RequestError):
    """No such model or version is served."""

    code = "model_unknown"


class ModelNotReady(RequestError):
    """The model exists but failed its checks, or no model is served."""

    code = "model_not_ready"


class UnknownLayer(RequestError):
    """The network has no such layer."""

    code = "layer_unknown"


class UnknownUnit(RequestError):
    """The layer has no such channel, row, column or element."""

    code = "unit_unknown"


class NoKernels(RequestError):
    """The layer has no weights, or several."""

    code = "no_kernels"


class UnknownSample(RequestError):
    """The artifact has no such sample image."""

    code = "sample_unknown"


class NoReferences(RequestError):
    """The artifact has no reference images, or they cannot be used."""

    code = "no_references"


class NotInspectable(RequestError):
    """The artifact lacks the file to inspect, or its network does not allow the method."""

    code = "not_inspectable"


class UnknownPath(RequestError):
    """No such route."""

    code = "path_unknown"


class MethodNotAllowed(RequestError):
    """The route exists for other methods, which `allow` lists."""

    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class WrongShape(RequestError):
    """A tensor of a shape that the network does not take."""

    code = "shape_wrong"


class LoadingOff(RequestError):
    """Models cannot be loaded or unloaded by request."""

    code = "loading_off"


class LoadFailed(RequestError):
    """A version of the model to load cannot be served."""

    code = "load_failed"


class UnsupportedType(RequestError):
    """A body of a content type that the route does not read."""

    code = "content_type_unsupported"


class QueueFull(RequestError):
    """The server is busy; retry after `retry_after_s`."""

    code = "queue_full"
    retry_after_s: float = 1.0

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpgradeRefused(RequestError):
    """A request with a body asks for another protocol; the connection is closed."""

    code = "upgrade_refused"


class DeadlinePassed(RequestError):
    """The answer was not ready by the deadline."""

    code = "deadline_passed"


class InferenceFailed(RequestError):
    """The engine failed on a batch; the server's log has the reason."""

    code = "inference_failed"


class GpuMemoryFull(RequestError):
    """The GPU's memory is full."""

    code = "device_memory_full"
    retry_after_s = 1.0


class GpuLost(RequestError):
    """The GPU stopped working; the worker ends, and another replaces it."""

    code = "device_lost"
    retry_after_s = 10.0


STATUS: dict[type[Exception], int] = {
    UnknownParameter: 400,
    MalformedBody: 400,
    BodyEmpty: 400,
    UpgradeRefused: 400,
    EmptyImage: 400,
    ImageUndecodable: 400,
    Unauthorized: 401,
    LoadingOff: 403,
    LoadFailed: 409,
    UnknownModel: 404,
    UnknownLayer: 404,
    UnknownUnit: 404,
    NoKernels: 404,
    NoReferences: 404,
    UnknownSample: 404,
    NotInspectable: 404,
    UnknownPath: 404,
    MethodNotAllowed: 405,
    BodyTooLarge: 413,
    TooManyImages: 413,
    TooManyValues: 413,
    ImageTooLarge: 413,
    ImageTooNarrow: 413,
    NotAnImage: 415,
    UnsupportedMode: 415,
    UnsupportedType: 415,
    NoFiniteScores: 422,
    WrongShape: 422,
    QueueFull: 429,
    GpuLost: 503,
    GpuMemoryFull: 503,
    InferenceFailed: 503,
    ModelNotReady: 503,
    DeadlinePassed: 504,
}


def error_body(error: RequestError | ImageError) -> dict[str, Any]:
    """The value of the key `error` in an answer."""
    return {"code": error.code, "message": str(error)}


def is_v2(path: str) -> bool:
    """True for a path of the Open Inference Protocol, whose errors have another format."""
    return path == "/v2" or path.startswith("/v2/")


def has_plain_errors(path: str) -> bool:
    """True for a path of a protocol whose errors are `{"error": message}`: /v2, and TensorFlow Serving's `:predict`."""
    return is_v2(path) or (path.startswith("/v1/models/") and path.endswith(":predict"))


def error_json(path: str, code: str, message: str) -> bytes:
    """The whole body: `{"error": {"code", "message"}}`, or a protocol's `{"error": message}`."""
    return orjson.dumps({"error": message if has_plain_errors(path) else {"code": code, "message": message}})


def error_answer(error: RequestError | ImageError, path: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, JSON body and extra headers of the error response to a request for `path`."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, RequestError) and error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if isinstance(error, UpgradeRefused):
        headers.append((b"connection", b"close"))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return STATUS[type(error)], error_json(path, error.code, str(error)), headers


def forget_frames(error: BaseException | None) -> None:
    """Breaks the circle of an error and a frame that has it as a local variable, which would hold a request's images
    until the garbage collector runs."""
    while error is not None:
        error.__traceback__, error = None, error.__context__
