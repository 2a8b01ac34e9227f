"""The micro-batcher: runs waiting images together as soon as the engine is free."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from export.engines.protocol import DeviceLost, DeviceMemoryFull, Run
from models.errors import UserError
from models.images.decode import Floats, Pixels
from service.errors import InferenceFailed, QueueFull
from service.settings import Limit
from service.telemetry.metrics import Metrics, ModelMetrics
from service.telemetry.request_log import log


@dataclass(eq=False)
class _Job:
    """The images of one request; a large one is run in parts, which may finish in any order."""

    images: Pixels
    future: asyncio.Future[tuple[Floats, Floats]]
    taken: int = 0
    filled: int = 0
    scores: tuple[Floats, Floats] | None = None
    arrived: float = field(default_factory=time.perf_counter)
    queue_s: float = 0.0
    compute_s: float = 0.0

    def fill(self, start: int, rows: tuple[Floats, Floats]) -> tuple[Floats, Floats] | None:
        """Adds the scores of a part whose first image is `start`; returns all scores once they are complete."""
        count = len(self.images)
        if self.scores is None:
            probabilities, logits = (np.empty((count, *part.shape[1:]), part.dtype) for part in rows)
            self.scores = probabilities, logits
        for whole, part in zip(self.scores, rows, strict=True):
            whole[start : start + len(part)] = part
        self.filled += len(rows[0])
        return self.scores if self.filled == count else None


_Batch = list[tuple[_Job, int, Pixels]]  # parts of requests: the request, the part's first image, the part


class Batcher:
    """One queue for one engine, bounded in images, on one event loop.

    Greedy: a batch takes the images queued when the engine becomes free, and waits for more only if `wait_s` is set.
    The rest of a request that does not fit into one batch moves to the end of the queue, so that no request waits for
    more than one batch of each other request. Without an executor the engine runs on the event loop, once per
    iteration, which suits networks whose whole batch takes less time than switching to a thread.

    With `in_flight` above 1 a full batch starts before the current one has finished: its images are stacked and copied
    to the device in the meantime. A batch that is not full waits until the engine is idle, and grows.

    Args:
        run: the engine; uint8 (N, H, W, C) to probabilities and logits.
        max_batch_size: maximum images per batch.
        queue_size: maximum number of waiting images.
        wait_s: maximum wait of a batch that is not full, from the arrival of its first image.
        executor: stacks and runs batches, with `in_flight` threads; None for the event loop.
        in_flight: maximum number of concurrent batches.
        metrics: counts batches; None to count nothing.

    Attributes:
        queued_images: number of waiting images, including those of abandoned requests until they are removed.
        immediate: every batch runs in the next iteration of the event loop.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch_size: int,
        queue_size: Limit,
        executor: Executor | None,
        in_flight: int = 1,
        wait_s: float = 0.0,
        metrics: ModelMetrics | None = None,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._queue_size = queue_size
        self._executor = executor
        self._in_flight = in_flight
        self._wait_s = wait_s
        self._metrics = metrics or ModelMetrics(Metrics(), "", 0, ())
        self._jobs: deque[_Job] = deque()
        self._running = 0  # batches in the executor
        self._soon = False  # a batch is planned for the loop's next iteration
        self._later: asyncio.TimerHandle | None = None  # or for later, and may be moved forward
        self._images_per_s = 100.0
        self._ended = 0.0  # when the last batch finished
        self.queued_images = 0
        self._statistics = self._metrics.statistics
        self.runs_inline = executor is None and not wait_s

    def submit(self, images: Pixels) -> asyncio.Future[tuple[Floats, Floats]]:
        """Queues the images of one request; cancelling the future removes them from the queue.

        Returns:
            A future of probabilities and logits, (N, K) each.

        Raises:
            QueueFull: immediately, if they do not fit into the queue.
            InferenceFailed: in the future, if the engine fails.
            DeviceMemoryFull, DeviceLost: in the future, as the engine raises them.
        """
        count = len(images)
        if self.queued_images + count > self._queue_size.value:
            self._drop_cancelled()
        if self.queued_images + count > self._queue_size.value:
            self._statistics.failed(0)
            wait_s = self.queued_images / self._images_per_s
            raise QueueFull(
                f"{self.queued_images} images are waiting and the limit is {self._queue_size}; {count} more do not fit",
                wait_s,
            )
        loop = asyncio.get_running_loop()
        job = _Job(images, loop.create_future())
        self._jobs.append(job)
        self.queued_images += count
        if not self._soon:
            self._schedule(loop)
        return job.future

    def _schedule(self, loop: asyncio.AbstractEventLoop, *, at_once: bool = False) -> None:
        """Plans the next batch, if one may start: for the loop's next iteration, immediately, or after `wait_s`."""
        full = self.queued_images >= self._max_batch_size
        if not self._jobs or self._soon or (self._running and (self._running == self._in_flight or not full)):
            return
        left_s = self._wait_s and self._wait_s - (time.perf_counter() - self._jobs[0].arrived)
        if left_s > 0 and not full:
            self._later = self._later or loop.call_later(left_s, self._next_batch)
            return
        if self._later:
            self._later.cancel()
        if at_once:
            self._next_batch()
        else:
            self._soon = True
            loop.call_soon(self._next_batch)

    def _next_batch(self) -> None:
        self._soon, self._later = False, None
        if self._running:
            self._drop_cancelled()
            if self.queued_images < self._max_batch_size:
                return  # not full without them
        batch = self._next_images()
        if not batch:
            return
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        parts = [part for _, _, part in batch]
        if self._executor is None:
            try:
                outcome = self._stack_and_run(parts)
            except Exception as error:  # exceptions of engines share no base class; every request must be answered
                self._fail(batch, error)
            else:
                self._complete(batch, outcome, started)
            self._schedule(loop)
            return
        self._running += 1
        running = loop.run_in_executor(self._executor, self._stack_and_run, parts)
        running.add_done_callback(partial(self._finished, batch, started))
        self._schedule(loop, at_once=True)

    def _stack_and_run(self, parts: Sequence[Pixels]) -> tuple[Floats, Floats]:
        return self._run(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _finished(self, batch: _Batch, started: float, done: asyncio.Future[tuple[Floats, Floats]]) -> None:
        self._running -= 1
        if done.cancelled():
            self._fail(batch, RuntimeError("cancelled: the server is shutting down"))
        elif error := done.exception():
            self._fail(batch, error)
        else:
            self._complete(batch, done.result(), started)
        self._schedule(asyncio.get_running_loop(), at_once=True)

    def _next_images(self) -> _Batch:
        """Up to `max_batch_size` images from the head of the queue, without abandoned requests."""
        batch: _Batch = []
        room = self._max_batch_size
        while self._jobs and room:
            job = self._jobs.popleft()
            if job.future.done():
                self._forget(job)
                continue
            part = job.images[job.taken : job.taken + room]
            batch.append((job, job.taken, part))
            job.taken += len(part)
            room -= len(part)
            self.queued_images -= len(part)
            if job.taken < len(job.images):
                self._jobs.append(job)
        return batch

    def _drop_cancelled(self) -> None:
        for job in self._jobs:
            if job.future.done():
                self._forget(job)
        self._jobs = deque(job for job in self._jobs if not job.future.done())

    def _forget(self, job: _Job) -> None:
        if job.future.cancelled():
            self._statistics.failed(time.perf_counter() - job.arrived)
        self.queued_images -= len(job.images) - job.taken

    def _complete(self, batch: _Batch, outcome: tuple[Floats, Floats], started: float) -> None:
        try:
            self._distribute(batch, outcome, started)
        except Exception as error:  # a wrong shape or failed counting: nothing may wait forever
            self._fail(batch, error)

    def _distribute(self, batch: _Batch, outcome: tuple[Floats, Floats], started: float) -> None:
        probabilities, logits = outcome
        if len(probabilities) != (count := sum(len(part) for _, _, part in batch)):
            raise UserError(f"{count} images gave {len(probabilities)} rows")
        now, first = time.perf_counter(), 0
        elapsed_s, alone_s = now - started, now - max(started, self._ended)  # overlapping time must not count twice
        self._ended = now
        self._images_per_s += 0.1 * (count / max(alone_s, 1e-6) - self._images_per_s)
        self._statistics.ran(count, elapsed_s)
        for job, start, part in batch:
            if not start:
                job.queue_s = started - job.arrived
                self._metrics.queue.observe(job.queue_s)
            job.compute_s += elapsed_s
            last = first + len(part)
            rows = (probabilities[first:last], logits[first:last])
            first = last
            scores = rows if len(part) == len(job.images) else job.fill(start, rows)
            if scores is None:
                continue
            if job.future.done():
                self._statistics.failed(now - job.arrived)
                continue
            job.future.set_result(scores)
            self._statistics.answered(
                len(job.images), total_s=now - job.arrived, queue_s=job.queue_s, compute_s=job.compute_s
            )
        self._metrics.batch(probabilities, elapsed_s)

    def _fail(self, batch: _Batch, error: BaseException) -> None:
        images = sum(len(part) for _, _, part in batch)
        if isinstance(error, DeviceMemoryFull):
            log.error("inference failed on a batch of %d images: %s", images, error)
        elif not isinstance(error, DeviceLost):  # service.serving.gpu logs it once
            log.error("inference failed on a batch of %d images", images, exc_info=error)
        for job, _, _ in batch:
            if not job.future.done():
                self._statistics.failed(time.perf_counter() - job.arrived)
                job.future.set_exception(_for_one_request(error))


def _for_one_request(error: BaseException) -> Exception:
    if isinstance(error, DeviceMemoryFull | DeviceLost):
        return type(error)(str(error))
    return InferenceFailed("the engine failed on this batch; the server's log says why")
