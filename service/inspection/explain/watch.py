"""Long work that can be watched and stopped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


class Stopped(Exception):
    """The work was stopped before its end, since nobody waits for it any more."""


def _never() -> bool:
    return False


def _ignored(_method: str, _done: int, _total: int) -> None:
    return


@dataclass
class Watch:
    """Asks between batches if the work is still wanted, and reports how far it is.

    Attributes:
        cancelled: True once the work is not wanted any more.
        report: takes the method's name, and the runs of the network that are done, and all of them.
        method: the method that is running.
    """

    cancelled: Callable[[], bool] = _never
    report: Callable[[str, int, int], None] = _ignored
    method: str = field(default="", init=False)

    def batches(self, count: int, size: int) -> Iterator[slice]:
        """Slices of up to `size` that cover `count` runs.

        Raises:
            Stopped: the work is not wanted any more.
        """
        for start in range(0, count, size):
            if self.cancelled():
                raise Stopped
            stop = min(start + size, count)
            yield slice(start, stop)
            self.report(self.method, stop, count)
