"""Several batches under way at once, finished by hand in whatever order; and where their images are stacked."""

import asyncio
import random
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from export.engines.protocol import DeviceLost, DeviceMemoryFull
from service.errors import InferenceFailed
from service.serving.batcher import Batcher
from service.settings import Limit
from service.telemetry.metrics import Metrics, ModelMetrics

MOST = 4  # images in a batch


def images(*values):
    return np.array(values, np.uint16).reshape(-1, 1, 1, 1)


def scores(batch):
    """Each image's first pixel, and its negative."""
    values = batch[:, 0, 0, 0].astype(np.float32)[:, None]
    return values, -values


@dataclass(eq=False)
class Run:
    """A batch that the executor was given, and that a test finishes."""

    work: object
    parts: list
    future: Future

    @property
    def values(self):
        return [value for part in self.parts for value in part[:, 0, 0, 0].tolist()]


class ByHand(Executor):
    """Begins everything at once, and finishes it when a test says so."""

    def __init__(self):
        self.begun, self.under_way = [], []

    def submit(self, work, parts):
        run = Run(work, parts, Future())
        run.future.set_running_or_notify_cancel()
        self.begun.append((run.values, len(self.under_way)))
        self.under_way.append(run)
        return run.future

    async def finish(self, run, error=None):
        """Ends a batch, and gives the event loop the turns that it takes to deliver it."""
        self.under_way.remove(run)
        run.future.set_exception(error) if error else run.future.set_result(run.work(run.parts))
        await some_turns()


async def some_turns():
    """Lets the event loop go round a few times."""
    for _ in range(5):
        await asyncio.sleep(0)


def make(executor, *, in_flight=2, run=scores, **given):
    return Batcher(run, max_batch_size=MOST, queue_size=Limit(10_000), executor=executor, in_flight=in_flight, **given)


def test_the_next_batch_starts_early_only_if_it_is_full():
    async def scenario():
        executor = ByHand()
        batcher = make(executor)
        answers = [batcher.submit(images(1))]
        await some_turns()
        answers.append(batcher.submit(images(2, 3, 4)))
        await some_turns()
        assert [values for values, _ in executor.begun] == [[1]]
        answers.append(batcher.submit(images(5)))
        await some_turns()
        assert [values for values, _ in executor.begun] == [[1], [2, 3, 4, 5]]
        answers.append(batcher.submit(images(6, 7, 8, 9)))
        await some_turns()
        assert len(executor.begun) == 2  # so many are under way at most
        await executor.finish(executor.under_way[0])
        assert executor.begun[2] == ([6, 7, 8, 9], 1)
        answers.append(batcher.submit(images(10)))
        await executor.finish(executor.under_way[0])
        assert len(executor.begun) == 3  # one image is no full batch, and another batch is under way
        await executor.finish(executor.under_way[0])
        assert executor.begun[3] == ([10], 0)
        await executor.finish(executor.under_way[0])
        return await asyncio.gather(*answers)

    found = [rows[:, 0].tolist() for rows, _ in asyncio.run(scenario())]
    assert found == [[1], [2, 3, 4], [5], [6, 7, 8, 9], [10]]


def test_with_one_in_flight_nothing_starts_before_what_is_under_way_ends():
    async def scenario():
        executor = ByHand()
        batcher = make(executor, in_flight=1)
        answer = batcher.submit(images(*range(9)))
        for count in (1, 2, 3):
            await some_turns()
            assert len(executor.begun) == count
            await executor.finish(executor.under_way[0])
        return await answer

    assert asyncio.run(scenario())[0][:, 0].tolist() == list(range(9))


def test_batches_that_wait_for_more_start_early_when_they_are_full():
    async def scenario():
        executor = ByHand()
        batcher = make(executor, wait_s=3600)
        answers = [batcher.submit(images(1, 2))]
        await some_turns()
        assert not executor.begun
        answers.append(batcher.submit(images(3, 4, 5, 6, 7, 8, 9)))
        await some_turns()
        assert [values for values, _ in executor.begun] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        for _ in range(2):
            await executor.finish(executor.under_way[-1])
        assert len(executor.begun) == 2  # 9 waits for others again
        answers.append(batcher.submit(images(10, 11, 12)))
        await some_turns()
        await executor.finish(executor.under_way[0])
        return await asyncio.gather(*answers)

    assert [len(rows) for rows, _ in asyncio.run(scenario())] == [2, 7, 3]


def test_the_parts_of_a_large_request_come_back_in_its_order_whichever_ends_first():
    async def scenario():
        executor = ByHand()
        answer = make(executor, in_flight=3, metrics=counts).submit(images(*range(10)))
        await some_turns()
        assert len(executor.under_way) == 2  # two images are no full batch
        while executor.under_way:
            await executor.finish(executor.under_way[-1])
        return await answer

    counts = ModelMetrics(Metrics(), "m", 1, ("a",))
    probabilities, logits = asyncio.run(scenario())
    assert probabilities[:, 0].tolist() == list(range(10)) and (logits == -probabilities).all()
    assert sum(counts.queue.values[1:]) == 1  # as a request waits once, for its first batch


def test_what_was_abandoned_makes_no_batch_full():
    async def scenario():
        executor = ByHand()
        batcher = make(executor)
        first = batcher.submit(images(1))
        await some_turns()
        left = [batcher.submit(images(2, 2)) for _ in range(2)]
        left[0].cancel()
        kept = batcher.submit(images(3))
        await some_turns()
        assert len(executor.begun) == 1 and batcher.queued_images == 3
        await executor.finish(executor.under_way[0])
        assert executor.begun[1] == ([2, 2, 3], 0)
        await executor.finish(executor.under_way[0])
        await asyncio.gather(first, left[1], kept)

    asyncio.run(scenario())


def test_large_requests_and_small_ones_take_turns():
    async def scenario():
        executor = ByHand()
        batcher = make(executor)
        answers = [batcher.submit(images(*n)) for n in (range(10), range(20, 29), [40], [50])]
        await some_turns()
        while executor.under_way:
            await executor.finish(executor.under_way[-1])
        await asyncio.gather(*answers)
        return [values for values, _ in executor.begun]

    assert asyncio.run(scenario()) == [
        [0, 1, 2, 3],
        [20, 21, 22, 23],
        [40, 50, 4, 5],
        [24, 25, 26, 27],
        [6, 7, 8, 9],
        [28],
    ]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_everybody_gets_their_own_rows_and_a_failure_costs_its_batch_alone(in_flight, seed):
    chance = random.Random(seed)
    numbers = iter(range(10_000))

    async def scenario():
        executor = ByHand()
        batcher = make(executor, in_flight=in_flight)
        requests, failed = [], set()
        for _ in range(60):
            match chance.choice(["submit", "submit", "finish", "fail", "cancel"]):
                case "submit":
                    values = [next(numbers) for _ in range(chance.randint(1, 3 * MOST))]
                    requests.append((values, batcher.submit(images(*values))))
                case "cancel" if requests:
                    chance.choice(requests)[1].cancel()
                case "finish" | "fail" as how if executor.under_way:
                    run = chance.choice(executor.under_way)
                    if how == "fail":
                        failed.update(run.values)
                    await executor.finish(run, ZeroDivisionError("boom") if how == "fail" else None)
            if chance.random() < 0.5:
                await some_turns()
        await some_turns()
        while executor.under_way:
            await executor.finish(chance.choice(executor.under_way))
        assert batcher.queued_images == 0
        return executor.begun, requests, failed

    begun, requests, failed = asyncio.run(scenario())
    assert all(1 <= len(values) <= MOST and before < in_flight for values, before in begun)
    assert all(len(values) == MOST for values, before in begun if before)
    run = [value for values, _ in begun for value in values]
    assert len(run) == len(set(run))
    for values, answer in requests:
        assert answer.done()
        if answer.cancelled():
            continue
        if failed.isdisjoint(values):
            probabilities, logits = answer.result()
            assert probabilities[:, 0].tolist() == values and (logits == -probabilities).all()
        else:
            assert isinstance(answer.exception(), InferenceFailed)


def test_two_batches_are_in_the_engine_at_once():
    """With real threads: each run waits for the other to begin."""
    both = threading.Barrier(2, timeout=10)

    def run(batch):
        both.wait()
        return scores(batch)

    async def scenario(pool):
        return await asyncio.wait_for(make(pool, run=run).submit(images(*range(2 * MOST))), 20)

    with ThreadPoolExecutor(2) as pool:
        assert asyncio.run(scenario(pool))[0][:, 0].tolist() == list(range(2 * MOST))


@pytest.mark.parametrize("error", [DeviceMemoryFull("the GPU's memory is full"), DeviceLost("it stopped working")])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_failure_of_the_gpu_reaches_each_request_of_its_batch_and_the_queue_goes_on(error, in_flight):
    async def scenario():
        executor = ByHand()
        batcher = make(executor, in_flight=in_flight)
        failing = [batcher.submit(images(n)) for n in (1, 2)]
        await some_turns()
        after = batcher.submit(images(3))
        await executor.finish(executor.under_way[0], error)
        await executor.finish(executor.under_way[0])
        assert (await after)[0].tolist() == [[3]]
        return await asyncio.gather(*failing, return_exceptions=True)

    found = asyncio.run(scenario())
    assert [(type(one), str(one)) for one in found] == [(type(error), str(error))] * 2
    assert found[0] is not found[1]  # a traceback grows on each


def test_images_are_stacked_in_the_executors_thread_and_one_part_is_not_copied(monkeypatch):
    seen, stacked, stack = [], [], np.concatenate
    release = threading.Event()

    def watched(parts):
        stacked.append(threading.current_thread().name)
        return stack(parts)

    def run(batch):
        seen.append(batch)
        assert release.wait(10)
        return scores(batch)

    async def scenario(pool):
        monkeypatch.setattr(np, "concatenate", watched)
        batcher = make(pool, run=run)
        whole, large = images(1), images(*range(MOST + 2))
        answers = [batcher.submit(whole)]
        await some_turns()
        answers += [batcher.submit(large), batcher.submit(images(7))]
        release.set()
        await asyncio.gather(*answers)
        assert np.shares_memory(seen[0], whole) and np.shares_memory(seen[1], large)
        assert [len(batch) for batch in seen] == [1, MOST, 3]

    with ThreadPoolExecutor(1, thread_name_prefix="engine") as pool:
        asyncio.run(scenario(pool))
    assert stacked == ["engine_0"]
