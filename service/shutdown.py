"""What a worker does when it is told to end: unready at once, answering for a while yet, then no new connections."""

import asyncio
import signal
from types import FrameType

from service.catalog import Catalog
from service.request_log import log


class Shutdown:
    """Puts a while between SIGTERM and the end, in which whoever sends requests can notice.

    After it uvicorn's own handler takes over: it accepts nothing more, and ends when every request is answered.
    """

    def __init__(self, catalog: Catalog, *, drain_s: float) -> None:
        self._catalog = catalog
        self._drain_s = drain_s

    def prepare(self) -> None:
        """Takes the signal over; to be called on the event loop, in the main thread."""
        loop, after = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        if not callable(after):  # no server that would end
            return

        def begin() -> None:
            if self._catalog.draining:
                return  # a process group's signal and the supervisor's: it is under way
            self._catalog.draining = True
            log.info("unready; ends in %g s", self._drain_s)
            loop.call_later(self._drain_s, after, signal.SIGTERM, None)

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(begin)

        signal.signal(signal.SIGTERM, handle)
