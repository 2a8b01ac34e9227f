"""One time limit for many tasks: what `asyncio.timeout` does, but for the error, with a single timer."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from service.errors import DeadlinePassed
from service.http.deadline import Deadline

Limit = Callable[[], AbstractAsyncContextManager[Any]]


def limits(seconds: float) -> tuple[Limit, Limit]:
    """Ours with its error as TimeoutError, and the reference."""
    deadline = Deadline(seconds)

    @asynccontextmanager
    async def ours():
        try:
            with deadline.limit():
                yield
        except DeadlinePassed as error:
            raise TimeoutError from error

    return ours, lambda: asyncio.timeout(seconds)


async def finishes(limit: Limit) -> str:
    async with limit():
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)  # nothing may come later
    return "finished"


async def waits(limit: Limit) -> None:
    async with limit():
        await asyncio.sleep(60)


async def blocks_the_loop_and_finishes(limit: Limit) -> str:
    import time

    async with limit():
        time.sleep(0.1)
    await asyncio.sleep(0.05)
    return "finished"


async def fails_when_cancelled(limit: Limit) -> None:
    async with limit():
        try:
            await asyncio.sleep(60)
        finally:
            raise KeyError


async def is_cancelled_from_outside(limit: Limit) -> None:
    task = asyncio.ensure_future(waits(limit))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def is_cancelled_from_outside_too(limit: Limit) -> None:
    async def work() -> None:
        async with limit():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asyncio.current_task().cancel()
                raise

    await asyncio.ensure_future(work())


async def goes_on_after_it(limit: Limit) -> int:
    with pytest.raises(TimeoutError):
        await waits(limit)
    await asyncio.sleep(0.01)
    return asyncio.current_task().cancelling()


async def in_turns(limit: Limit) -> list[Any]:
    async def begin(after: float) -> Any:
        await asyncio.sleep(after)
        began = asyncio.get_running_loop().time()
        try:
            await waits(limit)
        except TimeoutError:
            return round(asyncio.get_running_loop().time() - began, 1)

    return await asyncio.gather(*(begin(0.02 * number) for number in range(5)))


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except BaseException as error:
        return type(error)


CASES = [
    (finishes, "finished"),
    (waits, TimeoutError),
    (blocks_the_loop_and_finishes, "finished"),
    (fails_when_cancelled, KeyError),
    (is_cancelled_from_outside, asyncio.CancelledError),
    (is_cancelled_from_outside_too, asyncio.CancelledError),
    (goes_on_after_it, 0),
    (in_turns, [0.1] * 5),
]


@pytest.mark.parametrize(("work", "wanted"), CASES)
def test_it_ends_as_asyncios_timeout_does(work: Callable[[Limit], Awaitable[Any]], wanted: Any) -> None:
    seconds = 0.1 if work is in_turns else 0.05
    ours, reference = (asyncio.run(outcome(work(limit))) for limit in limits(seconds))
    assert ours == reference == wanted


def test_the_error_names_the_setting() -> None:
    async def work() -> None:
        with Deadline(0.01).limit():
            await asyncio.sleep(60)

    with pytest.raises(DeadlinePassed, match=r"no answer within 0.01 s \(CONVSCOPE_DEADLINE_S\)"):
        asyncio.run(work())


def test_a_thousand_limits_have_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline, timers = Deadline(30), []

    async def work() -> None:
        with deadline.limit():
            await asyncio.sleep(0)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        call_at = loop.call_at
        monkeypatch.setattr(loop, "call_at", lambda *call: timers.append(call) or call_at(*call))
        await asyncio.gather(*(work() for _ in range(1000)))

    asyncio.run(run())
    assert len(timers) == 1


def test_event_loops_in_threads_and_one_after_the_other_have_limits_of_their_own() -> None:
    deadline = Deadline(0.05)

    async def late() -> Any:
        with deadline.limit():
            await asyncio.sleep(60)

    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(lambda: asyncio.run(outcome(late()))) for _ in range(12)]]
    assert found == [DeadlinePassed] * 12
