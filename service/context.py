"""Objects shared by the handlers of one worker, and steps common to the routes under /v1 and /v2."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import Receive

from models.images.decode import Floats, Pixels
from service.http.bodies import BodyReader
from service.http.deadline import Deadline
from service.http.disconnect import cancel_on_disconnect
from service.inspection.queue import InspectionQueue
from service.serving.reconciler import Reconciler
from service.serving.served_model import ModelEntry, ServedModel
from service.serving.version_catalog import VersionCatalog
from service.serving.worker_metrics import WorkerMetrics
from service.settings import Settings
from service.telemetry.request_context import current

T = TypeVar("T")


@dataclass(frozen=True)
class ServerContext:
    """The shared objects of one worker."""

    settings: Settings
    catalog: VersionCatalog
    reconciler: Reconciler
    metrics: WorkerMetrics
    body_reader: BodyReader
    decoders: Executor
    inspection_queue: InspectionQueue
    deadline: Deadline

    def entry(self, name: str | None, version: str | None = None) -> ModelEntry:
        """Looks a model up with `VersionCatalog.entry`, and records it for the request's metrics and log."""
        entry = self.catalog.entry(name, version)
        _note_model(entry)
        return entry

    def find(self, name: str | None, version: str | None = None) -> Coroutine[None, None, ServedModel]:
        """The same with `VersionCatalog.find`, which loads the model if it is not in memory."""
        return self.catalog.find(name, version, on_lookup=_note_model)

    async def inspect(self, work: Callable[[], T], receive: Receive) -> T:
        """What `work` returns once its turn among the inspections has come; cancelled when the client hangs up.

        Raises:
            QueueFull: too many are waiting.
        """
        return await cancel_on_disconnect(asyncio.ensure_future(self.inspection_queue.run(work)), receive)

    def versions(self, name: str) -> list[ModelEntry]:
        """All versions of a model; `name` may name one of them."""
        found = self.entry(name).manifest.name
        return [entry for entry in self.catalog.entries() if entry.manifest.name == found]


async def run_model(model: ServedModel, images: Pixels, receive: Receive | None) -> tuple[Floats, Floats]:
    """Probabilities and logits of uint8 (N, H, W, C); the work is cancelled when the client disconnects.

    Args:
        receive: of a request whose body has been read completely; None for a caller that cannot disconnect.
    """
    scores = model.run(images)
    # On the event loop a batch runs before a disconnect could be noticed.
    if receive is None or model.batcher.runs_inline:
        return await scores
    return await cancel_on_disconnect(scores, receive)


def _note_model(entry: ModelEntry) -> None:
    current().model = entry.metrics.labels
