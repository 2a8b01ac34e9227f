"""The micro-batcher: runs together what is waiting, as soon as the engine is free."""

import asyncio
import time
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from export.engine import Floats, Run
from models.inputs import Pixels
from service.errors import InferenceFailed, QueueFull
from service.metrics import Metrics, ModelMetrics
from service.request_log import log
from service.settings import Limit


@dataclass(eq=False)
class _Job:
    """The images of one request; a large one is run in parts."""

    images: Pixels
    future: asyncio.Future[tuple[Floats, Floats]]
    taken: int = 0
    parts: list[tuple[Floats, Floats]] = field(default_factory=list)
    arrived: float = field(default_factory=time.perf_counter)
    queue_s: float = 0.0
    compute_s: float = 0.0


class Batcher:
    """One queue before one engine, bounded in images, on one event loop.

    Greedy: a batch holds what has been queued when the engine becomes free, and waits for more only if it is told to.
    A request that does not fit into one batch goes to the end of the queue with what is left of it, so that nobody
    waits for more than one batch of each other request. Without an executor the engine runs on the event loop, once per
    turn of it, which is right for networks whose whole batch takes less than a thread's hop.

    Args:
        run: the engine; uint8 (N, H, W, C) to probabilities and logits.
        max_batch_size: images run together at most.
        queue_size: images that may wait.
        wait_s: how long a batch that is not full waits for more, from the arrival of its first image.
        executor: where to run, with a single thread; None for the event loop.
        metrics: where batches are counted; nowhere if None.

    Attributes:
        queued_images: that wait, those of abandoned requests included until they are come upon.
        immediate: everything is run in the turn of the event loop after it came.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_batch_size: int,
        queue_size: Limit,
        executor: Executor | None,
        wait_s: float = 0.0,
        metrics: ModelMetrics | None = None,
    ) -> None:
        self._run = run
        self._max_batch_size = max_batch_size
        self._queue_size = queue_size
        self._executor = executor
        self._wait_s = wait_s
        self._metrics = metrics or ModelMetrics(Metrics(), "", 0, ())
        self._jobs: deque[_Job] = deque()
        self._busy = False  # a batch is being run, or planned
        self._waiting: asyncio.TimerHandle | None = None  # the plan, while it can be brought forward
        self._images_per_s = 100.0
        self.queued_images = 0
        self._statistics = self._metrics.statistics
        self.immediate = executor is None and not wait_s

    def submit(self, images: Pixels) -> asyncio.Future[tuple[Floats, Floats]]:
        """Queues the images of one request; cancelling the future takes them out of the queue.

        Returns:
            A future of probabilities and logits, (N, K) each.

        Raises:
            QueueFull: at once, if they do not fit into the queue.
            InferenceFailed: in the future, if the engine fails.
        """
        count = len(images)
        if self.queued_images + count > self._queue_size.value:
            self._forget_abandoned()
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
        if not self._busy:
            self._plan(loop)
        elif self._waiting and self.queued_images >= self._max_batch_size:
            self._waiting.cancel()
            self._plan(loop)
        return job.future

    def _plan(self, loop: asyncio.AbstractEventLoop, *, at_once: bool = False) -> None:
        """The next batch, if there is one, is run in the loop's next turn or at once, unless it is to wait for more."""
        self._busy, self._waiting = bool(self._jobs), None
        if not self._jobs:
            return
        left_s = self._wait_s and self._wait_s - (time.perf_counter() - self._jobs[0].arrived)
        if left_s > 0 and self.queued_images < self._max_batch_size:
            self._waiting = loop.call_later(left_s, self._next_batch)
        elif at_once:
            self._next_batch()
        else:
            loop.call_soon(self._next_batch)

    def _next_batch(self) -> None:
        batch = self._take()
        if not batch:
            self._busy, self._waiting = False, None
            return
        loop, self._waiting = asyncio.get_running_loop(), None
        images = batch[0][1] if len(batch) == 1 else np.concatenate([part for _, part in batch])
        if self._executor is None:
            started = time.perf_counter()
            try:
                outcome = self._run(images)
            except Exception as error:  # an engine's exceptions share no base class; every request must be answered
                self._fail(batch, error)
            else:
                self._deliver(batch, outcome, time.perf_counter() - started)
            self._plan(loop)
            return
        started = time.perf_counter()
        running = loop.run_in_executor(self._executor, self._run, images)
        running.add_done_callback(lambda done: self._finished(batch, done, started))

    def _finished(
        self, batch: list[tuple[_Job, Pixels]], done: asyncio.Future[tuple[Floats, Floats]], started: float
    ) -> None:
        if done.cancelled():
            self._fail(batch, RuntimeError("cancelled: the server is shutting down"))
        elif error := done.exception():
            self._fail(batch, error)
        else:
            self._deliver(batch, done.result(), time.perf_counter() - started)
        self._plan(asyncio.get_running_loop(), at_once=True)

    def _take(self) -> list[tuple[_Job, Pixels]]:
        """Up to `max_batch_size` images from the head of the queue, abandoned requests left out."""
        batch: list[tuple[_Job, Pixels]] = []
        room = self._max_batch_size
        while self._jobs and room:
            job = self._jobs.popleft()
            if job.future.done():
                self._forget(job)
                continue
            part = job.images[job.taken : job.taken + room]
            job.taken += len(part)
            room -= len(part)
            self.queued_images -= len(part)
            batch.append((job, part))
            if job.taken < len(job.images):
                self._jobs.append(job)
        return batch

    def _forget_abandoned(self) -> None:
        for job in self._jobs:
            if job.future.done():
                self._forget(job)
        self._jobs = deque(job for job in self._jobs if not job.future.done())

    def _forget(self, job: _Job) -> None:
        if job.future.cancelled():
            self._statistics.failed(time.perf_counter() - job.arrived)
        self.queued_images -= len(job.images) - job.taken

    def _deliver(self, batch: list[tuple[_Job, Pixels]], outcome: tuple[Floats, Floats], elapsed_s: float) -> None:
        try:
            self._give(batch, outcome, elapsed_s)
        except Exception as error:  # a wrong shape, or in counting: nobody may be left waiting, nor the next batch
            self._fail(batch, error)

    def _give(self, batch: list[tuple[_Job, Pixels]], outcome: tuple[Floats, Floats], elapsed_s: float) -> None:
        probabilities, logits = outcome
        if len(probabilities) != (count := sum(len(part) for _, part in batch)):
            raise ValueError(f"{count} images gave {len(probabilities)} rows")
        self._images_per_s += 0.1 * (len(probabilities) / max(elapsed_s, 1e-6) - self._images_per_s)
        self._statistics.ran(len(probabilities), elapsed_s)
        now, start = time.perf_counter(), 0
        for job, part in batch:
            if not job.parts:
                job.queue_s = now - elapsed_s - job.arrived
                self._metrics.queue.observe(job.queue_s)
            job.compute_s += elapsed_s
            end = start + len(part)
            rows = (probabilities[start:end], logits[start:end])
            start = end
            if len(part) == len(job.images):
                whole = rows
            else:
                job.parts.append(rows)
                if sum(len(p) for p, _ in job.parts) < len(job.images):
                    continue
                whole = (np.concatenate([p for p, _ in job.parts]), np.concatenate([x for _, x in job.parts]))
            if job.future.done():
                self._statistics.failed(now - job.arrived)
                continue
            job.future.set_result(whole)
            self._statistics.answered(
                len(job.images), total_s=now - job.arrived, queue_s=job.queue_s, compute_s=job.compute_s
            )
        self._metrics.batch(probabilities, elapsed_s)

    def _fail(self, batch: list[tuple[_Job, Pixels]], error: BaseException) -> None:
        log.error("inference failed on a batch of %d images", sum(len(part) for _, part in batch), exc_info=error)
        for job, _ in batch:
            if not job.future.done():
                self._statistics.failed(time.perf_counter() - job.arrived)
                job.future.set_exception(InferenceFailed("the engine failed on this batch; the server's log says why"))
