"""The GPU of a worker: works, or is lost until the process ends, as a failed CUDA context never recovers."""

import threading
from collections.abc import Callable
from typing import Literal

from export.engines.protocol import DeviceLost, Engine
from models.images.decode import Floats, Pixels
from service.telemetry.request_log import log


class Gpu:
    """The device of all engines of a worker.

    Attributes:
        lost: the reason for the loss; empty while the GPU works.
        when_lost: called once, in any thread. It is not called for a GPU lost before it is set, so a worker that loses
            its GPU during startup stays, unready: a replacement would fail the same way forever.
    """

    def __init__(self) -> None:
        self.failure = ""
        self.on_failure: Callable[[], object] | None = None
        self._losing = threading.Lock()

    def watched(self, engine: Engine) -> "WatchedEngine":
        """Wraps an engine: it records a loss here, and runs nothing after one."""
        return WatchedEngine(engine, self)

    def mark_lost(self, reason: str) -> None:
        """Records the first loss."""
        with self._losing:
            if self.failure:
                return
            self.failure = reason
        log.error("%s; this process can run no model on it any more", reason)
        if self.on_failure:
            self.on_failure()


class WatchedEngine:
    """An engine of a worker; see `Engine`."""

    def __init__(self, engine: Engine, gpu: Gpu) -> None:
        self._engine, self._gpu = engine, gpu
        self.name, self.file = engine.name, engine.file
        self.device: Literal["cpu", "cuda"] = engine.device

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        """See `Engine.run`."""
        if self._gpu.failure:
            raise DeviceLost(self._gpu.failure)
        try:
            return self._engine.run(images)
        except DeviceLost as error:
            self._gpu.mark_lost(str(error))
            raise
