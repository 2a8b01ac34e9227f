"""Counts of all workers: each writes its own to a file that the others read."""

import asyncio
import os

from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import WorkerFiles
from service.telemetry.counters import Snapshot, Values
from service.telemetry.request_log import log
from service.telemetry.statistics import LAST

INTERVAL_S = 1.0


class WorkerMetrics:
    """The counts of this worker and, from their files, of the others.

    Attributes:
        counts: this worker's.
    """

    def __init__(self, catalog: VersionCatalog) -> None:
        self.counts = catalog.metrics
        self._catalog = catalog
        self._files: WorkerFiles | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failed = ""  # the last error on writing the file

    def start(self, files: WorkerFiles | None) -> None:
        """Starts writing this worker's file; call it on the event loop.

        Args:
            files: files shared by the workers of this server; None for a standalone worker.
        """
        self._files = files
        if files:
            self.counts.add(files.before())
            self._writing = asyncio.get_running_loop().create_task(self._keep_writing(files))

    def stop(self) -> None:
        """Writes the file a last time; call it when every request is answered."""
        if self._files:
            self._write(self._files)

    async def snapshots(self) -> list[Snapshot]:
        """The counts of every worker: this one's are current, the others' at most a second old."""
        own, files = self._snapshot(), self._files
        return [own, *(await asyncio.to_thread(lambda: [*files.others()] if files else []))]

    async def _keep_writing(self, files: WorkerFiles) -> None:
        while True:
            self._write(files)
            await asyncio.sleep(INTERVAL_S)

    def _write(self, files: WorkerFiles) -> None:
        failed, self._failed = self._failed, ""
        try:
            files.write(self._snapshot())
        except OSError as error:
            self._failed = str(error)
            if failed != self._failed:
                log.error("/metrics of other workers miss this one: %s", error)

    def _snapshot(self) -> Snapshot:
        return Snapshot(os.getpid(), self.counts.values(), self._gauges())

    def _gauges(self) -> Values:
        waiting: dict[tuple[str, ...], list[float]] = {}
        loaded: dict[tuple[str, ...], list[float]] = {}
        last: dict[tuple[str, ...], list[float]] = {
            entry.metrics.labels: [entry.metrics.statistics.last_s] for entry in self._catalog.entries()
        }
        for model in self._catalog.models():
            name, version = model.manifest.name, str(model.manifest.version)
            waiting[name, version] = [model.batcher.queued_images]
            loaded[name, version, model.engine.file, model.engine.name, model.engine.device] = [1]
        return {
            "convscope_queue_images": waiting,
            "convscope_model_loaded": loaded,
            "convscope_artifacts_refused": {(): [len(self._catalog.failures)]},
            "convscope_workers": {(): [1]},
            LAST: last,
        }
