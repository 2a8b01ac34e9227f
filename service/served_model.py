"""One artifact that is served: checked, opened, with a batcher before its engine."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.artifact import ONNX_FILE, Manifest, check_files
from export.engine import Engine
from export.engine_onnx import OnnxTaps
from export.engines import open_engine
from export.golden import check_golden
from models.inputs import Pixels
from service.batcher import Batcher
from service.metrics import ModelMetrics
from service.settings import Settings

# A full batch that takes less is run on the event loop: a hop to a thread costs each request more.
INLINE_LIMIT_S = 2e-3


@dataclass(frozen=True)
class ServedModel:
    """One artifact, opened and checked. Its engine's thread and memory go with the last reference to it."""

    directory: Path
    manifest: Manifest
    engine: Engine
    batcher: Batcher
    taps: OnnxTaps | None
    golden_difference: float
    inline: bool


@dataclass(eq=False)
class Entry:
    """One version of a model.

    Attributes:
        model: None while it is not in memory, which happens under a memory limit only.
        used: grows from request to request; the smallest was used least recently.
        loading: under way, for all who wait for it.
    """

    directory: Path
    manifest: Manifest
    metrics: ModelMetrics
    model: ServedModel | None = None
    used: int = 0
    loading: "asyncio.Task[ServedModel] | None" = None

    @property
    def label(self) -> str:
        """`name:version`."""
        return f"{self.manifest.name}:{self.manifest.version}"


def open_model(
    directory: Path, manifest: Manifest, settings: Settings, metrics: ModelMetrics | None = None
) -> ServedModel:
    """Checks hashes, opens the engine, runs the golden images and times a batch; in any thread.

    Raises:
        ArtifactError, EngineError: the artifact cannot be served; says why.
    """
    check_files(directory, manifest)
    threads = settings.threads_per_run
    engine = open_engine(
        directory,
        manifest,
        engine=settings.engine,
        precision=settings.precision,
        device=settings.device,
        threads=threads,
    )
    difference = check_golden(engine, directory, manifest)
    inline = _fits_the_event_loop(engine, manifest, settings.max_batch_size)
    batcher = Batcher(
        engine.run,
        max_batch_size=settings.max_batch_size,
        queue_size=settings.queue_size,
        executor=None if inline else ThreadPoolExecutor(1, thread_name_prefix=f"run-{manifest.name}"),
        metrics=metrics,
    )
    taps = None
    if ONNX_FILE in manifest.files:
        values = [node.value for node in manifest.nodes if node.value]
        entry = manifest.files[ONNX_FILE]
        taps = OnnxTaps(directory / ONNX_FILE, values, sha256=entry.sha256, device=engine.device, threads=threads)
    return ServedModel(directory, manifest, engine, batcher, taps, difference, inline)


def describe(model: ServedModel) -> str:
    """One line for the log: what runs where."""
    return (
        f"{model.manifest.name}:{model.manifest.version}: {model.engine.file} on {model.engine.name} "
        f"({model.engine.device}), golden images within {model.golden_difference:.1g}"
    )


def _fits_the_event_loop(engine: Engine, manifest: Manifest, batch: int) -> bool:
    for count in (1, batch):  # most networks that are too slow for it show so with one image
        images = np.zeros((count, *manifest.input.shape), np.uint8)
        if min(_seconds(engine, images) for _ in range(4)) > INLINE_LIMIT_S:  # the first run of a size is slower
            return False
    return True


def _seconds(engine: Engine, images: Pixels) -> float:
    started = time.perf_counter()
    engine.run(images)
    return time.perf_counter() - started
