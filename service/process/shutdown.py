"""Shutdown of a worker: it becomes unready at once and drains; if a worker dies in a container, the server ends."""

import asyncio
import os
import signal
import threading
from types import FrameType

from bentoml.serving import running_inside_container

from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import WorkerFiles
from service.telemetry.request_log import log

_INTERVAL_S = 1.0
_LONGEST_LOST_S = 5.0  # maximum time that a worker without its GPU waits for slow clients, which delays its successor


class Shutdown:
    """Drains a worker between SIGTERM and its end, so that load balancers can notice.

    Afterwards uvicorn's own handler takes over: it accepts no connections, and ends when every request is answered.

    A worker that loses its GPU ends likewise, but without a drain; other workers, or its successor, accept new
    connections.
    """

    def __init__(self, catalog: VersionCatalog, *, drain_s: float) -> None:
        self._catalog = catalog
        self._drain_s = drain_s
        self._watching: asyncio.Task[None] | None = None

    def prepare(self, files: WorkerFiles | None) -> None:
        """Installs the signal handler and watches the GPU; call it on the event loop, in the main thread.

        Args:
            files: files shared by the workers of this server; None for a standalone worker.
        """
        if files and running_inside_container():
            self._watching = asyncio.get_running_loop().create_task(self._end_with_the_first(files))
        loop, after = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        if not callable(after):  # there is no server to end
            return

        def begin() -> None:
            if self._catalog.draining:
                return  # both the process group's and the supervisor's signal arrive: already shutting down
            self._catalog.draining = True
            log.info("unready; ends in %g s", self._drain_s)
            loop.call_later(self._drain_s, after, signal.SIGTERM, None)

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(begin)

        def end() -> None:
            log.error("the worker ends, as its GPU is lost")
            last = threading.Timer(_LONGEST_LOST_S, os._exit, (1,))
            last.daemon = True
            last.start()
            after(signal.SIGTERM, None)

        signal.signal(signal.SIGTERM, handle)
        self._catalog.gpu.on_failure = lambda: loop.call_soon_threadsafe(end)

    async def _end_with_the_first(self, files: WorkerFiles) -> None:
        """Ends the server when a worker dies: in a container BentoML starts no other, and the operator must notice."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if (dead := files.dead()) and not self._catalog.draining:
                log.error("the worker with process id %d has died, so the server ends", dead[0])
                os.kill(os.getppid(), signal.SIGTERM)
                return
