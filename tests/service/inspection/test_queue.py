"""Inspections take turns, and not too many wait."""

import asyncio
import threading

import pytest

from service.errors import QueueFull
from service.inspection.queue import InspectionQueue
from service.settings import Limit


def test_no_more_than_the_limit_wait_and_all_of_them_run():
    async def main():
        inspection_queue, gate = InspectionQueue(Limit(2)), threading.Event()
        waiting = [asyncio.create_task(inspection_queue.run(lambda: gate.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 inspections are waiting; the limit is 2"):
            await inspection_queue.run(lambda: gate.wait(10))
        gate.set()
        assert await asyncio.gather(*waiting) == [True, True]
        await asyncio.sleep(0)
        for _ in range(5):  # places are given back
            assert await inspection_queue.run(int) == 0

    asyncio.run(main())


def test_what_is_given_up_before_its_turn_is_never_begun():
    async def main():
        inspection_queue, gate, begun = InspectionQueue(Limit(2)), threading.Event(), []
        first = asyncio.create_task(inspection_queue.run(lambda: gate.wait(10)))
        second = asyncio.create_task(inspection_queue.run(lambda: begun.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)
        third = asyncio.create_task(inspection_queue.run(lambda: begun.append(3)))  # the second's place is free
        gate.set()
        await asyncio.gather(first, third)
        assert begun == [3]

    asyncio.run(main())
