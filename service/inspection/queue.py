"""Work that takes turns: one thread beside the event loop, and a bounded number that waits for it."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import QueueFull
from service.settings import Limit

T = TypeVar("T")


def _lower_priority() -> None:
    """Gives this thread a smaller share of the cores than those that classify, where the system knows of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class InspectionQueue:
    """Runs one piece of work at a time, so that inspection neither stops the event loop nor takes every core."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inspect", initializer=_lower_priority)
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, once its turn has come. Cancelled before that, it is never begun.

        Raises:
            QueueFull: `limit` pieces of work are waiting or running.
        """
        if self._waiting >= self._limit.value:
            raise QueueFull(f"{self._waiting} inspections are waiting; the limit is {self._limit}", retry_after_s=1)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        future = self._executor.submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self._waiting -= 1
