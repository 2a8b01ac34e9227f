"""The models that are served: found, checked, opened, and looked up by name and version."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.artifact import ONNX_FILE, ArtifactError, Manifest, check_files, find_versions, read_manifest
from export.engine import Engine, EngineError
from export.engine_onnx import OnnxTaps
from export.engines import open_engine
from export.golden import check_golden
from service.batcher import Batcher
from service.errors import ModelNotReady, UnknownModel, UnknownParameter
from service.metrics import Metrics, ModelMetrics
from service.observation import current
from service.query import NUMBER
from service.request_log import log
from service.settings import Settings

# A full batch that takes less is run on the event loop: a hop to a thread costs each request more.
INLINE_LIMIT_S = 2e-3


@dataclass(frozen=True)
class ServedModel:
    """One artifact, opened and checked."""

    directory: Path
    manifest: Manifest
    engine: Engine
    batcher: Batcher
    taps: OnnxTaps | None
    golden_difference: float
    inline: bool
    metrics: ModelMetrics


class Catalog:
    """All models under the artifacts directory. A bad one is left out and named; the others are served."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, dict[int, ServedModel]] = {}
        self.failures: dict[str, str] = {}
        self.metrics = Metrics()
        self.opened = False

    def open(self) -> None:
        """Opens every version; reads hashes and runs golden images.

        Raises nothing, whatever an artifact or an engine does: a worker that fails to start would be started for ever.
        """
        try:
            directories = find_versions(self._settings.artifacts)
        except (ArtifactError, OSError) as error:
            directories = []
            self.failures[str(self._settings.artifacts)] = str(error)
        for directory in directories:
            try:
                self._add(open_model(directory, self._settings, self.metrics))
            except (ArtifactError, EngineError, OSError) as error:
                self._refuse(directory, str(error))
            except Exception as error:  # engines raise what they like on a file that does not fit
                log.exception("%s", directory)
                self._refuse(directory, f"{directory}: {type(error).__name__}: {error}")
        self.opened = True

    def _add(self, model: ServedModel) -> None:
        versions = self._models.setdefault(model.manifest.name, {})
        if (other := versions.get(model.manifest.version)) is not None:
            name = f"{model.manifest.name}:{model.manifest.version}"
            raise ArtifactError(f"{model.directory} says it is {name}, and so does {other.directory}")
        versions[model.manifest.version] = model
        log.info("%s", describe(model))

    def _refuse(self, directory: Path, reason: str) -> None:
        self.failures[str(directory)] = reason
        log.error("%s is not served: %s", directory, reason)

    @property
    def not_ready(self) -> str | None:
        """Why the server is not ready, or None if it is."""
        if not self.opened:
            return "the models are being loaded"
        if self.failures:
            return "; ".join(self.failures.values())
        if not self._models:
            return f"no artifact in {self._settings.artifacts}; `convscope export` writes one"
        return None

    def models(self) -> list[ServedModel]:
        """All models, by name and version."""
        return [self._models[name][version] for name in sorted(self._models) for version in sorted(self._models[name])]

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """The model called `name` or `name:version`; the newest version if none is given, the only model if no name is.

        Raises:
            UnknownModel, UnknownParameter, ModelNotReady: the message lists what there is.
        """
        if not self._models:
            raise ModelNotReady(self.not_ready or "no model is served")
        if name is not None and ":" in name:
            name, _, inner = name.partition(":")
            if version is not None and version != inner:
                raise UnknownParameter(f"the model is asked for as {name}:{inner} and as version {version}")
            version = inner
        if name is None:
            if len(self._models) > 1:
                raise UnknownParameter(f"several models are served ({', '.join(sorted(self._models))}); say model=NAME")
            (name,) = self._models
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(f"no model is called {name[:100]!r}; served are {', '.join(sorted(self._models))}")
        if version is None:
            return _noted(versions[max(versions)])
        if not NUMBER.fullmatch(version) or int(version) not in versions:
            known = ", ".join(map(str, sorted(versions)))
            raise UnknownModel(f"{name} has no version {version[:20]!r}; served are {known}")
        return _noted(versions[int(version)])


def _noted(model: ServedModel) -> ServedModel:
    current().model = model.metrics.labels
    return model


def open_model(directory: Path, settings: Settings, metrics: Metrics | None = None) -> ServedModel:
    """Checks hashes, opens the engine, runs the golden images and times a full batch.

    Raises:
        ArtifactError, EngineError: the artifact cannot be served; says why.
    """
    manifest = read_manifest(directory)
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
    counts = ModelMetrics(metrics or Metrics(), manifest.name, manifest.version, manifest.classes)
    inline = _seconds(engine, manifest, settings.max_batch_size) < INLINE_LIMIT_S
    batcher = Batcher(
        engine.run,
        max_batch_size=settings.max_batch_size,
        queue_size=settings.queue_size,
        executor=None if inline else ThreadPoolExecutor(1, thread_name_prefix=f"run-{manifest.name}"),
        metrics=counts,
    )
    taps = None
    if ONNX_FILE in manifest.files:
        values = [node.value for node in manifest.nodes if node.value]
        entry = manifest.files[ONNX_FILE]
        taps = OnnxTaps(directory / ONNX_FILE, values, sha256=entry.sha256, device=engine.device, threads=threads)
    return ServedModel(directory, manifest, engine, batcher, taps, difference, inline, counts)


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
