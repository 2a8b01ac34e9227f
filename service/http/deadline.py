"""The deadline of requests: one time limit for all of a worker, on one timer."""

import asyncio
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from service.errors import DeadlinePassed

_Loop = asyncio.AbstractEventLoop


class Deadline:
    """Cancels blocks that take too long: `with deadline.limit():` in a task.

    `asyncio.timeout` starts and stops a timer for each request, which takes 3 us. As all limits are equally long, those
    that are entered first end first, so that one timer is enough, for the oldest.

    Attributes:
        seconds: the limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._all: WeakKeyDictionary[_Loop, _Limits] = WeakKeyDictionary()
        self._latest: tuple[_Loop | None, _Limits] = None, _Limits()

    def limit(self) -> "_Limit":
        """A context manager for one block in the current task; it raises DeadlinePassed if the block takes longer."""
        loop = asyncio.get_running_loop()
        known, limits = self._latest
        if loop is not known:  # a server has one; clients in tests may have one for each request, in threads
            limits = self._all.setdefault(loop, _Limits())
            self._latest = loop, limits
        return _Limit(limits, loop, self.seconds)


class _Limits:
    """All running limits of one event loop."""

    def __init__(self) -> None:
        self._ends: dict[_Limit, float] = {}  # by the event loop's clock; the oldest limit first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limit: "_Limit", loop: _Loop, seconds: float) -> None:
        self._ends[limit] = end = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._expire, loop)

    def remove(self, limit: "_Limit") -> None:
        self._ends.pop(limit, None)

    def _expire(self, loop: _Loop) -> None:
        self._timer = None
        for limit, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._expire, loop)
                return
            del self._ends[limit]
            limit.expire()


class _Limit:
    """One block, entered once; as in `asyncio.timeout`, cancellation from outside stays one."""

    __slots__ = ("_cancelling", "_expired", "_limits", "_loop", "_seconds", "_task")

    def __init__(self, limits: _Limits, loop: _Loop, seconds: float) -> None:
        self._limits, self._loop, self._seconds = limits, loop, seconds
        self._expired = False

    def __enter__(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None, "only a task can be cancelled"
        self._task, self._cancelling = task, task.cancelling()
        self._limits.add(self, self._loop, self._seconds)

    def expire(self) -> None:
        """Cancels the block."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.remove(self)
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlinePassed(
                f"no answer within {self._seconds:g} s (CONVSCOPE_DEADLINE_S); the work was dropped"
            ) from None
