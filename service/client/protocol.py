"""The client's protocol: its requests, the wait before each, and the interpretation of answers.

A conversation is a generator that yields steps and receives the outcomes, so that the blocking and the asynchronous
client share it. This module does no I/O over the network.
"""

import email.utils
import io
import random
import time
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from models.errors import ConvscopeError, UserError
from models.results import ImageFailure, Prediction, Result

T = TypeVar("T")
Outcome = httpx.Response | Exception | None
Files = list[tuple[str, tuple[str, bytes]]]
_RETRYABLE = (429, 503)  # busy, or not ready yet


class NoAnswer(ConvscopeError, RuntimeError):
    """The server could not be reached, refused the request, or sent an answer that is not convscope's.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        code: machine-readable error code; empty likewise.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def along(self, route: str) -> "NoAnswer":
        """The same with a proxy, if there is one, unless the answer is convscope's."""
        return self if self.code else NoAnswer(f"{self}{route}", status=self.status)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Batching, retries and timeouts of a client.

    Attributes:
        batch: maximum images per request; a server's default limit is 256.
        batch_bytes: maximum bytes per request, unless one image is larger; a server's default limit is 64 MiB.
        retries: further attempts after 429, 503 or no connection.
        longest_wait_s: maximum wait before a retry, whatever Retry-After is.
        timeout_s: for connecting, and for each part of the answer.
    """

    batch: int = 64
    batch_bytes: int = 16 * 2**20
    retries: int = 5
    longest_wait_s: float = 30.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("batch", "batch_bytes", "timeout_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        for name in ("retries", "longest_wait_s"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A request, and the seconds to wait before it."""

    method: str
    path: str
    parameters: dict[str, str] = field(default_factory=dict)
    files: Files = field(default_factory=list)
    wait_s: float = 0.0


Exchange = Generator[Step, Outcome, T]


def classify_exchange(
    images: Sequence[bytes | Path], policy: Policy, *, model: str | None, top_k: int | None
) -> Exchange[list[Result]]:
    """Files in batches; see `Client.classify`."""
    given = {"model": model, "top_k": top_k}
    parameters = {name: str(value) for name, value in given.items() if value is not None}
    results: list[Result | None] = [None] * len(images)
    for batch in _batches(images, results, policy):
        files: Files = [("image", (str(place), data)) for place, data in batch]
        step = Step(method="POST", path="/v1/classify", parameters=parameters, files=files)
        try:
            answer = yield from _ask(step, policy)
        except NoAnswer as refused:
            if len(batch) > 1 or not refused.code.startswith("image_"):
                raise
            answers = [Result(error=ImageFailure(refused.code, str(refused)))]  # a lone bad image has an error status
        else:
            answers = _results(answer, len(batch))
        for (place, _), result in zip(batch, answers, strict=True):
            results[place] = result
    return [result for result in results if result is not None]


def models_exchange(policy: Policy) -> Exchange[list[dict[str, Any]]]:
    """See `Client.models`."""
    answer = yield from _ask(Step(method="GET", path="/v1/models"), policy)
    found = _json(answer)
    if not (isinstance(found, dict) and isinstance(found.get("models"), list)):
        raise _unexpected_response(answer)
    return list(found["models"])


def arrays_exchange(step: Step, policy: Policy) -> Exchange[dict[str, npt.NDArray[Any]]]:
    """A request that is answered with numpy's arrays; see `Client.feature_maps` and `Client.kernels`."""
    answer = yield from _ask(step, policy)
    try:
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile):
        raise _unexpected_response(answer) from None


def object_exchange(step: Step, policy: Policy, *, key: str) -> Exchange[dict[str, Any]]:
    """A request that is answered with a JSON object, which must have a member; see `Client.unit` and its like."""
    answer = yield from _ask(step, policy)
    found = _json(answer)
    if not (isinstance(found, dict) and key in found):
        raise _unexpected_response(answer)
    return found


def upload_step(path: str, images: Sequence[bytes | Path], parameters: Mapping[str, str | int | bool | None]) -> Step:
    """A request with images as a form; parameters that are None are left out.

    Raises:
        OSError: a file cannot be read.
    """
    files: Files = [
        ("image", (str(place), image if isinstance(image, bytes) else image.read_bytes()))
        for place, image in enumerate(images)
    ]
    return Step(method="POST", path=path, parameters=as_texts(parameters), files=files)


def as_texts(parameters: Mapping[str, str | int | bool | None]) -> dict[str, str]:
    """The parameters of a query; those that are None are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def _ask(step: Step, policy: Policy) -> Exchange[httpx.Response]:
    """One request, repeated while the server is busy or unreachable.

    Raises:
        NoAnswer: all attempts fail, or the answer is an error.
    """
    wait_s = 0.0
    for attempt in range(policy.retries + 1):
        outcome = yield replace(step, wait_s=wait_s)
        if isinstance(outcome, httpx.Response) and outcome.status_code not in _RETRYABLE:
            break
        if isinstance(outcome, httpx.InvalidURL | httpx.UnsupportedProtocol):
            break
        wait_s = min(retry_after_s(outcome) or random.uniform(0.5, 1) * 0.2 * 2**attempt, policy.longest_wait_s)
    if not isinstance(outcome, httpx.Response):
        raise NoAnswer(f"no answer: {outcome}")
    if outcome.status_code != 200:
        raise _error_from(outcome)
    return outcome


def retry_after_s(outcome: Outcome) -> float:
    """Seconds to wait by Retry-After, a number or a date; 0 without one."""
    told = outcome.headers.get("retry-after", "") if isinstance(outcome, httpx.Response) else ""
    if told.isascii() and told.isdecimal():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return 0.0


def _batches(
    images: Sequence[bytes | Path], results: list[Result | None], policy: Policy
) -> Iterator[list[tuple[int, bytes]]]:
    """Positions and bytes, read lazily; a file that cannot be read gets its result immediately."""
    batch: list[tuple[int, bytes]] = []
    for place, image in enumerate(images):
        try:
            data = image if isinstance(image, bytes) else image.read_bytes()
        except OSError as error:
            results[place] = Result(error=ImageFailure("file_unreadable", error.strerror or str(error)))
            continue
        size = sum(len(other) for _, other in batch)
        if batch and (len(batch) == policy.batch or size + len(data) > policy.batch_bytes):
            yield batch
            batch = []
        batch.append((place, data))
    if batch:
        yield batch


def _results(answer: httpx.Response, count: int) -> list[Result]:
    try:
        found = [_result(row) for row in answer.json()["results"]]
    except (ValueError, KeyError, TypeError):
        raise _unexpected_response(answer) from None
    if len(found) != count:
        raise NoAnswer(f"{count} images were sent, and {len(found)} results came", status=answer.status_code)
    return found


def _result(row: dict[str, Any]) -> Result:
    if "error" in row:
        return Result(error=ImageFailure(str(row["error"]["code"]), str(row["error"]["message"])))
    rows = row["predictions"]
    found = tuple(Prediction(str(one["label"]), int(one["index"]), float(one["probability"])) for one in rows)
    return Result(found, notes=tuple(map(str, row.get("notes", ()))))


def _error_from(answer: httpx.Response) -> NoAnswer:
    found = _json(answer)
    error = found.get("error") if isinstance(found, dict) else None
    if not (isinstance(error, dict) and {"code", "message"} <= error.keys()):
        return _unexpected_response(answer)
    return NoAnswer(str(error["message"]), status=answer.status_code, code=str(error["code"]))


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _unexpected_response(answer: httpx.Response) -> NoAnswer:
    return NoAnswer(f"answered {answer.status_code}, and not as convscope does", status=answer.status_code)
