"""One artifact that is served: checked, opened, with a batcher before its engine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Receive

from export.artifact.golden import check_golden
from export.artifact.manifest import ONNX_FILE, Manifest, check_files
from export.engines.cuda import Device, cuda_unavailable_reason
from export.engines.onnxruntime import OnnxFeatureExtractor, cuda_provider_unavailable_reason
from export.engines.protocol import Engine
from export.engines.selection import open_engine
from models.images.decode import Floats, Pixels
from service.http.disconnect import cancel_on_disconnect
from service.serving.batch_size import BatchSize, measure_batch_size
from service.serving.batcher import Batcher
from service.serving.gpu import Gpu
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics
from service.telemetry.request_log import log

# Batches under way at once: on a GPU the next is stacked and copied there while one is computed.
_IN_FLIGHT = {"cpu": 1, "cuda": 2}


@dataclass(frozen=True)
class ServedModel:
    """One artifact, opened and checked. Its engine's thread and memory go with the last reference to it."""

    directory: Path
    manifest: Manifest
    engine: Engine
    batcher: Batcher
    taps: OnnxFeatureExtractor | None
    golden_difference: float
    batch_size: BatchSize

    async def run(self, images: Pixels, receive: Receive | None = None) -> tuple[Floats, Floats]:
        """Probabilities and logits, (N, K) each, of uint8 (N, H, W, C), run together with what else waits.

        Args:
            images: at the network's size.
            receive: of the request, to know when its client hangs up; None for one that cannot.

        Raises:
            QueueFull, InferenceFailed, ClientGone, DeviceMemoryFull, DeviceLost: see there.
        """
        scores = self.batcher.submit(images)
        # On the event loop a batch is run before anybody could be seen to hang up.
        return await (scores if receive is None or self.batcher.runs_inline else cancel_on_disconnect(scores, receive))


@dataclass(eq=False)
class ModelEntry:
    """One version of a model.

    Attributes:
        model: None while it is not in memory, which happens under a memory limit only.
        batch_size: as it was measured, once; it stays known while the model is not in memory.
        too_large: why it cannot be brought into memory, once that is known.
        used: grows from request to request; the smallest was used least recently.
        loading: under way, for all who wait for it.
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
    """Checks hashes, opens the engine, runs the golden images and times batches unless it is told; in any thread.

    Args:
        directory, manifest: the artifact.
        settings: the server's.
        gpu: the device, which notes its loss in a run; one of its own if None.
        metrics: where batches are counted.
        batch_size: as it was measured before.

    Raises:
        ArtifactError, EngineError: the artifact cannot be served; says why.
    """
    check_files(directory, manifest)
    threads = settings.threads_per_run
    opened = open_engine(
        directory,
        manifest,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=threads,
    )
    if opened.device == "cpu" and settings.device == "auto" and cuda_unavailable_reason() is None:
        log.warning("%s runs on the CPU, although there is a GPU: %s", directory, _why_not_there(opened))
    engine = (gpu or Gpu()).watched(opened)
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
    taps = None
    if ONNX_FILE in manifest.files:
        values = [node.value for node in manifest.nodes if node.value]
        entry = manifest.files[ONNX_FILE]
        device: Device = "auto" if engine.device == "cuda" else "cpu"  # ONNX Runtime need not be what is on the GPU
        taps = OnnxFeatureExtractor(directory / ONNX_FILE, values, sha256=entry.sha256, device=device, threads=threads)
    return ServedModel(directory, manifest, engine, batcher, taps, difference, size)


def describe(model: ServedModel) -> str:
    """One line for the log: what runs where."""
    reason = cuda_provider_unavailable_reason() if model.engine.device == "cuda" and model.taps else None
    return (
        f"{model.manifest.name}:{model.manifest.version}: {model.engine.file} on {model.engine.name} "
        f"({model.engine.device}), golden images within {model.golden_difference:.1g}, "
        f"batches of up to {model.batch_size.images}, which take {1000 * model.batch_size.seconds:.3g} ms"
        + (f"; inspection runs on the CPU, as there is {reason}" if reason else "")
    )


def _why_not_there(engine: Engine) -> str:
    if engine.name != "onnxruntime":
        return "this build of torch finds none that it can use"
    return cuda_provider_unavailable_reason() or "ONNX Runtime's CUDA provider does not load; see its libraries"
