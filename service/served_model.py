"""One artifact that is served: checked, opened, with a batcher before its engine."""

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


def open_model(
    directory: Path, manifest: Manifest, settings: Settings, metrics: ModelMetrics | None = None
) -> ServedModel:
    """Checks hashes, opens the engine, runs the golden images and times a full batch; in any thread.

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
    inline = _seconds(engine, manifest, settings.max_batch_size) < INLINE_LIMIT_S
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


def _seconds(engine: Engine, manifest: Manifest, batch: int) -> float:
    images = np.zeros((batch, *manifest.input.shape), np.uint8)
    times = []
    for _ in range(4):  # the first run of a size is slower
        started = time.perf_counter()
        engine.run(images)
        times.append(time.perf_counter() - started)
    return min(times)
