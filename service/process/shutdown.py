"""Shutdown of a worker: it becomes unready at once and drains; if a worker dies in a container, the server ends."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from bentoml.serving import running_inside_container

from service.process.listener import resume_connections, stop_connections
from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import WorkerFiles
from service.telemetry.request_log import log

_INTERVAL_S = 1.0
_ACCEPT_S = 0.1  # time to accept what is connected, and to read its requests, before uvicorn closes idle connections
_LONGEST_LOST_S = 5.0  # maximum time that a worker without its GPU waits for slow clients, which delays its successor


class Shutdown:
    """Drains a worker between SIGTERM and its end, so that load balancers can notice.

    While it drains, every answer closes its connection, so that clients with persistent connections leave. Afterwards
    uvicorn's own handler takes over: it accepts no connections, and ends when every request is answered.

    A worker that loses its GPU ends likewise, but without a drain; other workers, or its successor, accept new
    connections. So does a worker whose server is gone.
    """

    def __init__(self, catalog: VersionCatalog, *, drain_s: float) -> None:
        self._catalog = catalog
        self._drain_s = drain_s
        self._handler: Any = None
        self._watching: asyncio.Task[None] | None = None

    def skip_drain(self) -> None:
        """Lets SIGTERM end the process immediately, until `prepare`: no request is accepted meanwhile."""
        self._handler = signal.getsignal(signal.SIGTERM)
        if callable(self._handler):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def prepare(self, files: WorkerFiles | None) -> None:
        """Installs the signal handler, and watches GPU and server; call it on the event loop, in the main thread.

        Args:
            files: files shared by the workers of this server; None for a standalone worker.
        """
        loop, after = asyncio.get_running_loop(), self._handler or signal.getsignal(signal.SIGTERM)
        if not callable(after):  # there is no server to end
            return

        def begin() -> None:
            if self._catalog.draining:
                return  # both the process group's and the supervisor's signal arrive: already shutting down
            self._catalog.draining = True
            if files:
                files.note_end()
            log.info("unready; ends in %g s", self._drain_s)
            loop.call_later(self._drain_s, finish)

        def finish() -> None:
            if files and files.all_end():  # otherwise other workers accept new connections
                stop_connections()
            loop.call_later(_ACCEPT_S, after, signal.SIGTERM, None)

        def handle(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(begin)

        def end(reason: str) -> None:
            log.error("the worker ends, as %s", reason)
            last = threading.Timer(_LONGEST_LOST_S, os._exit, (1,))
            last.daemon = True
            last.start()
            self._catalog.draining = True
            after(signal.SIGTERM, None)

        signal.signal(signal.SIGTERM, handle)
        self._catalog.gpu.on_failure = lambda: loop.call_soon_threadsafe(end, "its GPU is lost")
        if files:
            resume_connections()  # a predecessor may have stopped them
            self._watching = loop.create_task(self._watch(files, end))

    async def _watch(self, files: WorkerFiles, end: Callable[[str], None]) -> None:
        """Ends this worker if the server's first process is gone, and in a container the server if a worker dies."""
        while os.getppid() == files.parent:
            await asyncio.sleep(_INTERVAL_S)
            if running_inside_container() and (dead := files.dead()) and not self._catalog.draining:
                # BentoML starts no other, and the operator must notice.
                log.error("the worker with process id %d has died, so the server ends", dead[0])
                os.kill(files.parent, signal.SIGTERM)
                return
        end(f"the server's first process ({files.parent}) is gone")
