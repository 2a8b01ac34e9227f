import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.errors import InferenceFailed, QueueFull
from service.serving.batcher import Batcher
from service.settings import Limit
from service.telemetry.metrics import Metrics, ModelMetrics


class Recorder:
    """An engine that returns each image's first pixel and remembers the batches it was given."""

    def __init__(self, fail_on: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.fail_on = fail_on
        self.go = threading.Event()
        self.go.set()

    @property
    def images(self) -> list[int]:
        return [value for batch in self.batches for value in batch]

    def __call__(self, images):
        assert self.go.wait(10)
        values = images[:, 0, 0, 0]
        self.batches.append(values.tolist())
        if self.fail_on in values:
            raise RuntimeError("boom")
        return values[:, None].astype(np.float32), -values[:, None].astype(np.float32)


def images(*values):
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


@pytest.fixture(params=["inline", "thread"])
def executor(request):
    if request.param == "inline":
        yield None
    else:
        with ThreadPoolExecutor(1) as pool:
            yield pool


def make(run, executor, *, max_batch_size=4, queue_size=100, wait_s=0.0, metrics=None):
    return Batcher(
        run,
        max_batch_size=max_batch_size,
        queue_size=Limit(queue_size, "CONVSCOPE_QUEUE_SIZE"),
        executor=executor,
        wait_s=wait_s,
        metrics=metrics,
    )


def test_every_request_gets_its_own_rows(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor)
        return await asyncio.gather(*(batcher.submit(images(*range(n, n + 3))) for n in range(0, 30, 3)))

    for index, (probabilities, logits) in enumerate(asyncio.run(scenario())):
        assert probabilities[:, 0].tolist() == [3 * index, 3 * index + 1, 3 * index + 2]
        assert (logits == -probabilities).all()
    assert sorted(run.images) == list(range(30))
    assert max(map(len, run.batches)) == 4


def test_what_is_queued_in_one_turn_of_the_loop_runs_together():
    run = Recorder()

    async def scenario():
        batcher = make(run, None)
        await asyncio.gather(*(batcher.submit(images(n)) for n in range(4)))

    asyncio.run(scenario())
    assert run.batches == [[0, 1, 2, 3]]


def test_what_arrives_while_the_engine_is_busy_runs_together():
    run = Recorder()
    run.go.clear()

    async def scenario(pool):
        batcher = make(run, pool)
        first = batcher.submit(images(0))
        await asyncio.sleep(0)  # the first batch is on its way to the thread
        rest = [batcher.submit(images(n)) for n in (1, 2, 3)]
        run.go.set()
        await asyncio.gather(first, *rest)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(scenario(pool))
    assert run.batches == [[0], [1, 2, 3]]


def test_a_request_larger_than_a_batch_is_run_in_parts(executor):
    run = Recorder()

    async def scenario():
        return await make(run, executor).submit(images(*range(11)))

    probabilities, logits = asyncio.run(scenario())
    assert probabilities[:, 0].tolist() == list(range(11)) and len(logits) == 11
    assert [len(batch) for batch in run.batches] == [4, 4, 3]


def test_requests_with_many_images_and_with_one_take_turns(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor)
        return await asyncio.gather(*(batcher.submit(images(*n)) for n in (range(10), range(20, 29), [40], [50])))

    answers = asyncio.run(scenario())
    assert [rows[:, 0].tolist() for rows, _ in answers] == [[*range(10)], [*range(20, 29)], [40], [50]]
    assert run.batches == [[0, 1, 2, 3], [20, 21, 22, 23], [40, 50, 4, 5], [24, 25, 26, 27], [6, 7, 8, 9], [28]]


def test_a_batch_that_is_not_full_waits_for_more_if_it_is_told_to(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor, wait_s=0.05)
        started = time.perf_counter()
        first = batcher.submit(images(0))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, batcher.submit(images(1)))
        assert time.perf_counter() - started >= 0.05

    asyncio.run(scenario())
    assert run.batches == [[0, 1]]


def test_a_full_batch_does_not_wait_nor_does_what_waited_while_another_was_run(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor, wait_s=3600)
        async with asyncio.timeout(10):
            await asyncio.gather(*(batcher.submit(images(n)) for n in range(3)), batcher.submit(images(3, 4, 5, 6, 7)))

    asyncio.run(scenario())
    assert run.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_nothing_is_run_for_a_request_that_is_abandoned_while_it_waits_for_more(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor, wait_s=0.02)
        batcher.submit(images(0)).cancel()
        await asyncio.sleep(0.05)
        await batcher.submit(images(1))
        assert batcher.queued_images == 0

    asyncio.run(scenario())
    assert run.batches == [[1]]


def test_a_full_queue_refuses_at_once_and_keeps_what_it_has(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor, queue_size=5)
        kept = batcher.submit(images(1, 2, 3, 4))
        with pytest.raises(
            QueueFull, match=r"4 images are waiting and the limit is 5 \(CONVSCOPE_QUEUE_SIZE\); 2 more do not"
        ) as full:
            batcher.submit(images(5, 6))
        assert full.value.retry_after_s > 0
        await kept
        await batcher.submit(images(5, 6))
        assert batcher.queued_images == 0

    asyncio.run(scenario())
    assert run.images == [1, 2, 3, 4, 5, 6]


def test_an_abandoned_request_is_not_run(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor)
        left, kept = batcher.submit(images(1, 1)), batcher.submit(images(2))
        left.cancel()
        await kept
        assert batcher.queued_images == 0

    asyncio.run(scenario())
    assert run.batches == [[2]]


def test_abandoned_requests_do_not_keep_others_out_of_the_queue(executor):
    run = Recorder()

    async def scenario():
        batcher = make(run, executor, queue_size=8)
        left = [batcher.submit(images(n, n, n, n)) for n in (1, 2)]
        left[0].cancel()
        kept = batcher.submit(images(3))
        with pytest.raises(QueueFull, match="5 images are waiting"):
            batcher.submit(images(4, 4, 4, 4))
        await asyncio.gather(left[1], kept)
        assert batcher.queued_images == 0

    asyncio.run(scenario())
    assert run.images == [2, 2, 2, 2, 3]


def test_a_failing_engine_answers_its_batch_and_lives_on(executor):
    run = Recorder(fail_on=7)

    async def scenario():
        batcher = make(run, executor)
        failed = await asyncio.gather(batcher.submit(images(7)), batcher.submit(images(8)), return_exceptions=True)
        after, _ = await batcher.submit(images(9))
        return failed, after

    failed, after = asyncio.run(scenario())
    assert isinstance(failed[0], InferenceFailed)
    assert after.tolist() == [[9.0]]


@pytest.mark.parametrize("broken", ["too few rows", "counting"])
def test_a_failure_after_the_run_leaves_nobody_waiting_and_the_next_batch_is_run(executor, broken, monkeypatch):
    run, left = Recorder(), [1]

    def first_is_short(values):
        probabilities, logits = run(values)
        return (
            (probabilities[:0, 0], logits)
            if broken == "too few rows" and left and left.pop()
            else (probabilities, logits)
        )

    async def scenario():
        metrics = ModelMetrics(Metrics(), "m", 1, ())
        if broken == "counting":
            monkeypatch.setattr(metrics, "batch", lambda *_: 1 / 0)
        batcher = make(first_is_short, executor, metrics=metrics)
        first = await asyncio.wait_for(asyncio.gather(batcher.submit(images(1)), return_exceptions=True), 10)
        second = await asyncio.wait_for(batcher.submit(images(2)), 10)
        return first[0], second

    first, second = asyncio.run(scenario())
    if broken == "counting":  # costs the count, not the answer
        assert first[0].tolist() == [[1]]
    else:
        assert isinstance(first, InferenceFailed)
    assert second[0].tolist() == [[2]]
