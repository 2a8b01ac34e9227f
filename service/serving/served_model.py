"""One served artifact: checked, opened, with a batcher for its engine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from export.artifact.golden import check_golden
from export.artifact.manifest import Manifest
from export.engines.cuda import cuda_unavailable_reason
from export.engines.onnxruntime import cuda_provider_unavailable_reason
from export.engines.protocol import Engine
from export.predictor import Predictor
from models.images.decode import Floats, Pixels
from service.serving.batch_size import BatchSize, measure_batch_size
from service.serving.batcher import Batcher
from service.serving.gpu import Gpu
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics
from service.telemetry.request_log import log

# Concurrent batches: on a GPU the next is stacked and copied while one is computed.
_IN_FLIGHT = {"cpu": 1, "cuda": 2}


@dataclass(frozen=True)
class ServedModel:
    """One artifact, opened and checked. Its engine's thread and memory are freed with the last reference to it."""

    predictor: Predictor
    batcher: Batcher
    golden_difference: float
    batch_size: BatchSize

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.predictor.manifest

    @property
    def engine(self) -> Engine:
        """The engine that the batcher calls."""
        return self.predictor.engine

    def run(self, images: Pixels) -> "asyncio.Future[tuple[Floats, Floats]]":
        """Queues uint8 (N, H, W, C) at the network's size; the future returns probabilities and logits, (N, K) each.

        Raises:
            QueueFull: immediately. InferenceFailed, DeviceMemoryFull and DeviceLost come from the future.
        """
        return self.batcher.submit(images)


@dataclass(eq=False)
class ModelEntry:
    """One version of a model.

    Attributes:
        model: None while it is not in memory, which happens only under a memory limit.
        batch_size: measured once; kept while the model is not in memory.
        too_large: the reason that it does not fit into memory, once known.
        last_used: increases with every request; the smallest is the least recently used.
        loading: the current loading task, shared by all who wait for it.
    """

    directory: Path
    manifest: Manifest
    metrics: ModelMetrics
    model: ServedModel | None = None
    batch_size: BatchSize | None = None
    too_large: str = ""
    last_used: int = 0
    loading: "asyncio.Task[ServedModel] | None" = None

    @property
    def label(self) -> str:
        """`name:version`."""
        return f"{self.manifest.name}:{self.manifest.version}"


def open_model(
    directory: Path,
    manifest: Manifest,
    settings: Settings,
    *,
    gpu: Gpu | None = None,
    metrics: ModelMetrics | None = None,
    batch_size: BatchSize | None = None,
) -> ServedModel:
    """Checks hashes, opens the engine, runs the golden images and times batches; in any thread.

    Args:
        directory, manifest: the artifact.
        settings: the server's settings.
        gpu: the device, which records a loss during a run; a new one if None.
        metrics: counts batches.
        batch_size: an earlier measurement, which skips timing.

    Raises:
        ArtifactError, EngineError: the artifact cannot be served; the message gives the reason.
    """
    predictor = Predictor.open(
        directory,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=settings.threads_per_run,
        check_all=True,
    )
    if predictor.engine.device == "cpu" and settings.device == "auto" and cuda_unavailable_reason() is None:
        log.warning("%s runs on the CPU, although there is a GPU: %s", directory, _why_not_there(predictor.engine))
    engine = (gpu or Gpu()).watched(predictor.engine)
    difference = check_golden(engine, directory, manifest)
    size = batch_size or measure_batch_size(
        engine.run, manifest.input.shape, device=engine.device, fixed=settings.max_batch_size
    )
    in_flight = _IN_FLIGHT[engine.device]
    batcher = Batcher(
        engine.run,
        max_batch_size=size.images,
        queue_size=settings.limit("queue_size"),
        wait_s=settings.batch_wait_ms / 1000,
        executor=None if size.inline else ThreadPoolExecutor(in_flight, thread_name_prefix=f"run-{manifest.name}"),
        in_flight=in_flight,
        metrics=metrics,
    )
    return ServedModel(replace(predictor, engine=engine), batcher, difference, size)


def describe(model: ServedModel) -> str:
    """One log line with the file, engine and device."""
    reason = cuda_provider_unavailable_reason() if model.engine.device == "cuda" and model.predictor.extractor else None
    return (
        f"{model.predictor.label}: {model.engine.file} on {model.engine.name} "
        f"({model.engine.device}), golden images within {model.golden_difference:.1g}, "
        f"batches of up to {model.batch_size.images}, which take {1000 * model.batch_size.seconds:.3g} ms"
        + (f"; inspection runs on the CPU, as {reason}" if reason else "")
    )


def _why_not_there(engine: Engine) -> str:
    if engine.name != "onnxruntime":
        return "this build of torch finds none that it can use"
    return cuda_provider_unavailable_reason() or "ONNX Runtime's CUDA provider does not load; see its libraries"
