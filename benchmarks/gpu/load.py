"""Load from separate processes, for machines without wrk: HTTP/1.1 on connections that are kept busy.

Each process runs one event loop with bare protocols, which read a status and a Content-Length and nothing else. A
request that is unanswered when the time is over is not counted, as in wrk.
"""

import asyncio
import gc
import importlib
import itertools
import multiprocessing
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, cast

BUSY = 429
_BUSY_PAUSE_S = 0.02  # before a request that was answered 429 is sent again
_RECONNECT_S = 0.05
_START_S = 60.0  # within which every process must be connected

_barrier: Barrier  # in a process of load


@dataclass(frozen=True)
class Load:
    """Results of one load, without its warm-up.

    Attributes:
        requests_per_s: requests answered 200.
        images_per_s: images in these.
        p50_ms, p99_ms: from sending to the whole answer, of those answered 200; 0 if there are none.
        errors: statuses other than 200 and 429, lost connections, and answers that are not HTTP.
        busy: requests answered 429; not counted as errors.
        statuses: number of answers by status; 0 counts lost connections and answers that are not HTTP.
        cores: processor time of the load itself, in cores.
    """

    requests_per_s: float
    images_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    busy: int
    statuses: dict[int, int]
    cores: float


@dataclass
class Answers:
    """Counts of one process of load.

    Attributes:
        latencies_s: of requests answered 200.
        statuses: number of answers by status, warm-up left out; see `Load`.
        cpu_s: processor time.
    """

    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: Counter[int] = field(default_factory=Counter)
    cpu_s: float = 0.0


def load(
    host: str,
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    processes: int = 2,
    warm_up_s: float = 0.5,
    images_per_request: int = 1,
) -> Load:
    """Keeps `connections` busy for `seconds`, after a warm-up.

    Args:
        host, port: of the server.
        requests: whole HTTP/1.1 requests, head and body; each connection sends them in turn from a different start.
        connections: total; each has one request in flight.
        seconds: measured time.
        processes: number that share the connections.
        warm_up_s: uncounted seconds before the measurement.
        images_per_request: for `Load.images_per_s`.

    Raises:
        OSError: no connection at the start.
    """
    processes = min(processes, connections)
    context = multiprocessing.get_context("spawn")
    counts = [len(range(index, connections, processes)) for index in range(processes)]
    with ProcessPoolExecutor(processes, context, _set_barrier, (context.Barrier(processes),)) as pool:
        jobs = [
            pool.submit(_process, host, port, list(requests), index, count, seconds, warm_up_s)
            for index, count in enumerate(counts)
        ]
        found = [job.result() for job in jobs]
    return _merged(found, seconds, images_per_request)


def percentile(values: Sequence[float], share: float) -> float:
    """The quantile of sorted values at a share in [0, 1]; 0 if there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _merged(found: Sequence[Answers], seconds: float, images_per_request: int) -> Load:
    latencies = sorted(itertools.chain.from_iterable(one.latencies_s for one in found))
    statuses = sum((one.statuses for one in found), Counter[int]())
    rate = statuses[200] / seconds
    return Load(
        requests_per_s=rate,
        images_per_s=rate * images_per_request,
        p50_ms=1e3 * percentile(latencies, 0.5),
        p99_ms=1e3 * percentile(latencies, 0.99),
        errors=sum(count for status, count in statuses.items() if status not in (200, BUSY)),
        busy=statuses[BUSY],
        statuses=dict(sorted(statuses.items())),
        cores=sum(one.cpu_s for one in found) / seconds,
    )


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _process(
    host: str, port: int, requests: list[bytes], index: int, connections: int, seconds: float, warm_up_s: float
) -> Answers:
    """One process's share of the load, started together with the others."""
    gc.disable()
    keeping = _keep_busy(host, port, requests, index, connections, seconds, warm_up_s)
    try:
        factory: Any = importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(keeping)


async def _keep_busy(
    host: str, port: int, requests: list[bytes], index: int, connections: int, seconds: float, warm_up_s: float
) -> Answers:
    loop, answers = asyncio.get_running_loop(), Answers()
    active = []
    for number in range(connections):
        start = (index + 7 * number) % len(requests)
        turn = itertools.cycle([*requests[start:], *requests[:start]])
        active.append(_Connection(host, port, answers, turn))
    _barrier.wait(_START_S)
    # Each sends as soon as it is open, as clients do: an idle worker would accept all of them.
    await asyncio.gather(*(loop.create_connection(lambda one=one: one, host, port) for one in active))
    await asyncio.sleep(warm_up_s)
    answers.latencies_s, answers.statuses, began = array("d"), Counter(), time.process_time()
    await asyncio.sleep(seconds)
    taken = Answers(answers.latencies_s, answers.statuses, time.process_time() - began)
    answers.latencies_s, answers.statuses = array("d"), Counter()
    for connection in active:
        connection.close()
    return taken


class _Connection(asyncio.Protocol):
    """Sends one request after another, and reconnects when the server disconnects."""

    def __init__(self, host: str, port: int, answers: Answers, turn: Iterator[bytes]) -> None:
        self._address = (host, port)
        self._answers = answers
        self._turn = turn
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._missing = 0  # remaining bytes of the answer; 0 before its head arrives
        self._status = 0
        self._sent = 0.0
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from asyncio's
        self.send()

    def send(self) -> None:
        """Sends the next request."""
        if self._transport is not None and not self._closed:
            self._sent = time.perf_counter()
            self._transport.write(next(self._turn))

    def close(self) -> None:
        """Closes the connection and abandons the request in flight."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._received += data
            if (end := self._received.find(b"\r\n\r\n")) < 0:
                return
            try:
                self._status, length = _read_head(bytes(self._received[: end + 2]))
            except ValueError:
                assert self._transport is not None, "data came"
                self._transport.abort()  # `connection_lost` counts it
                return
            self._missing = length - (len(self._received) - end - 4)
            self._received.clear()
        if self._missing <= 0:
            self._missing = 0
            self._answered()

    def _answered(self) -> None:
        self._answers.statuses[self._status] += 1
        if self._status == 200:
            self._answers.latencies_s.append(time.perf_counter() - self._sent)
        if self._status == BUSY:
            asyncio.get_running_loop().call_later(_BUSY_PAUSE_S, self.send)
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._missing = None, 0
        self._received.clear()
        if not self._closed:
            self._answers.statuses[0] += 1
            asyncio.get_running_loop().call_later(_RECONNECT_S, self._connect_again)

    def _connect_again(self) -> None:
        async def connect() -> None:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, *self._address)
            except OSError:
                self._answers.statuses[0] += 1
                asyncio.get_running_loop().call_later(_RECONNECT_S, self._connect_again)

        if not self._closed:
            self._connecting = asyncio.ensure_future(connect())


def _read_head(head: bytes) -> tuple[int, int]:
    """Status and Content-Length of an answer's head, whose lines all end with CRLF.

    Raises:
        ValueError: either is missing.
    """
    at = head.lower().index(b"\r\ncontent-length:") + 17
    return int(head[9:12]), int(head[at : head.index(b"\r\n", at)])
