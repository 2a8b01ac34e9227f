"""The served models: finds them in the artifacts directory, opens, replaces and unloads them, and looks them up."""

import asyncio
import itertools
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from export.artifact.manifest import ArtifactError, check_files, read_manifest
from export.engines.protocol import DeviceLost, DeviceMemoryFull
from service.errors import GpuLost, ModelNotReady, UnknownModel, UnknownParameter
from service.serving.artifact_scan import Signature, exists, scan
from service.serving.gpu import Gpu
from service.serving.memory import give_back, resident_mb
from service.serving.served_model import ModelEntry, ServedModel, describe, open_model
from service.settings import Settings
from service.telemetry.metrics import Metrics, ModelMetrics
from service.telemetry.request_log import log


class VersionCatalog:
    """All models under the artifacts directory. A bad artifact is reported and left out; the others are served.

    Attributes:
        failures: reasons that artifacts are not served, by their directory.
        unloaded: names of models that are not served although their artifacts exist.
        was_ready: every artifact has been served once. Later failures are reported, and the server stays ready.
        draining: this worker is about to end.
        gpu: the device of the models that do not run on the CPU.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: dict[str, dict[int, ModelEntry]] = {}
        self._installed: dict[Path, Signature] = {}  # snapshot of each directory when opened or refused
        self._unsettled: dict[Path, Signature] = {}  # later snapshots, until they are stable
        self._lock = asyncio.Lock()
        self._clock = itertools.count(1)
        self.failures: dict[str, str] = {}
        self.unloaded: frozenset[str] = frozenset()
        self.metrics = Metrics()
        self.gpu = Gpu()
        self.opened = False
        self.was_ready = False
        self.draining = False

    def open(self, unloaded: frozenset[str] = frozenset()) -> None:
        """Opens every version; checks hashes and runs golden images, before the first request.

        Never raises, whatever an artifact or an engine does: a worker that fails to start would be restarted forever.
        """
        self.unloaded = unloaded
        try:
            found = self._scan()
        except (ArtifactError, OSError) as error:
            self._record_failure(self._settings.artifacts, str(error))
        else:
            for directory, signature in found.items():
                self._install(directory, signature, self._load_candidate(directory))
        self.opened = True
        self._note_ready()

    async def refresh(self, *, settled: bool = True) -> None:
        """Applies changes of the directory. Meanwhile the present versions answer requests.

        A version that cannot be served replaces nothing. A version whose files are gone, or whose model is in
        `unloaded`, is dropped.

        Args:
            settled: skip artifacts that changed since the last scan, as they may be incomplete; if false, failed
                versions are also tried again, as the cause may lie outside their files.
        """
        async with self._lock:
            try:
                found = await asyncio.to_thread(self._scan)
            except (ArtifactError, OSError) as error:  # a temporarily unavailable network share: nothing is lost
                self._record_failure(self._settings.artifacts, str(error))
                return
            self.failures.pop(str(self._settings.artifacts), None)
            changed = self._remove_missing(found)
            for directory in {*self._installed, *self._unsettled} - found.keys():
                self._forget_directory(directory)
            for directory, signature in found.items():
                if self._installed.get(directory) == signature and (settled or str(directory) not in self.failures):
                    continue
                if settled and self._unsettled.get(directory) != signature:
                    self._unsettled[directory] = signature
                    continue
                prepared = await asyncio.to_thread(self._load_candidate, directory)
                self._install(directory, signature, prepared)
                changed = changed or prepared is not None
            if changed:
                await asyncio.to_thread(give_back)
            self._note_ready()

    @property
    def not_ready(self) -> str | None:
        """The reason that the server is not ready, or None."""
        if self.gpu.failure:
            return self.gpu.failure
        if self.draining:
            return "the server is shutting down"
        if not self.opened:
            return "the models are being loaded"
        if not self.was_ready and (reasons := [*self.failures.values(), *self._too_large()]):
            return "; ".join(reasons)
        if not self._entries and not self.unloaded:
            if self.failures:
                return "; ".join(self.failures.values())
            return f"no artifact in {self._settings.artifacts}; `convscope export` writes one"
        return None

    def entries(self) -> list[ModelEntry]:
        """All served versions, by name and version, in memory or not."""
        return sorted(self._all(), key=lambda entry: (entry.manifest.name, entry.manifest.version))

    def models(self) -> list[ServedModel]:
        """All models in memory, by name and version."""
        return [entry.model for entry in self.entries() if entry.model]

    def entry(self, name: str | None, version: str | None = None) -> ModelEntry:
        """The model `name` or `name:version`; by default the newest version, and the only model if no name is given.

        Raises:
            UnknownModel, UnknownParameter, ModelNotReady: the message lists the served models.
            GpuLost: the GPU no longer works.
        """
        if self.gpu.failure:
            raise GpuLost(self.gpu.failure)
        name, version = parse_model_name(name, version)
        if name in self.unloaded:
            raise ModelNotReady(f"{name} was unloaded; POST /v2/repository/models/{name}/load brings it back")
        if not self._entries:
            raise ModelNotReady(self.not_ready or "no model is served")
        return find_entry(self._entries, name, version)

    async def find(
        self,
        name: str | None,
        version: str | None = None,
        *,
        on_lookup: Callable[[ModelEntry], None] | None = None,
    ) -> ServedModel:
        """Finds a model like `entry`, and loads it if it is not in memory.

        Args:
            on_lookup: called with the version before it is returned or loaded.

        Raises:
            UnknownModel, UnknownParameter, ModelNotReady, GpuLost: as in `entry`, or it does not load or fit.
            DeviceMemoryFull, DeviceLost: during loading.
        """
        while True:
            entry = self.entry(name, version)
            if on_lookup is not None:
                on_lookup(entry)
            entry.last_used = next(self._clock)
            if entry.model is not None:
                return entry.model
            if entry.loading is None:  # a separate task: it continues for other requests when this one is cancelled
                entry.loading = asyncio.create_task(self._load(entry))
                entry.loading.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                return await asyncio.shield(entry.loading)
            except ModelNotReady:
                asked_for = version is not None or ":" in (name or "")
                if asked_for or entry in self._all() or entry.manifest.name not in self._entries:
                    raise  # otherwise it was the newest and is now refused, and the previous one answers

    async def _load(self, entry: ModelEntry) -> ServedModel:
        async with self._lock:
            try:
                return await asyncio.to_thread(self._load_within_limit, entry)
            except (ModelNotReady, DeviceMemoryFull, DeviceLost):  # not a fault of the artifact
                raise
            except Exception as error:  # see `_load_candidate`
                reason = _reason(entry.directory, error)
                if self._entries.get(entry.manifest.name, {}).get(entry.manifest.version) is entry:
                    signature = self._installed[entry.directory]
                    self._uninstall(entry)
                    self._install(entry.directory, signature, reason)
                raise ModelNotReady(f"{entry.label} cannot be served: {reason}") from None
            finally:
                entry.loading = None

    def _load_within_limit(self, entry: ModelEntry) -> ServedModel:
        if entry.too_large:
            raise ModelNotReady(entry.too_large)
        largest = max(file.size_bytes for file in entry.manifest.files.values())
        self._evict(entry, 2 * largest / 1e6)
        was_measured = entry.batch_size is not None
        if (model := self._open_within_limit(entry)) is None and not was_measured:
            model = self._open_within_limit(entry)  # without the memory of larger batches from timing
        if model is None:
            log.error("%s", entry.too_large)
            raise ModelNotReady(entry.too_large)
        entry.model, entry.too_large = model, ""
        return model

    def _may_not_fit(self, entry: ModelEntry) -> bool:
        """True if so little memory is left for weights and activations that only loading shows whether it fits."""
        largest = max(file.size_bytes for file in entry.manifest.files.values())
        return resident_mb() + 4 * largest / 1e6 > self._settings.memory_limit_mb

    def _open_within_limit(self, entry: ModelEntry) -> ServedModel | None:
        """The model, if this worker stays within its limit; evicts other models first."""
        model = self._open_model(entry)
        self._evict(entry, 0)
        if (resident := resident_mb()) <= (limit_mb := self._settings.memory_limit_mb):
            return model
        entry.too_large = (
            f"{entry.label} does not fit: with it a worker takes {resident:.0f} MB, and the limit is {limit_mb} MB "
            "(CONVSCOPE_MEMORY_LIMIT_MB)"
        )
        del model
        give_back()
        return None

    def _evict(self, wanted: ModelEntry, more_mb: float) -> None:
        """Evicts the least recently used models until `more_mb` fit under the limit, or no other is left."""
        others = sorted((e for e in self._all() if e.model and e is not wanted), key=lambda e: e.last_used)
        while others and resident_mb() + more_mb > self._settings.memory_limit_mb:
            victim = others.pop(0)
            victim.model = None
            log.info("%s leaves the memory to make room for %s", victim.label, wanted.label)
            give_back()

    def _load_candidate(self, directory: Path) -> ModelEntry | str | None:
        """Loads a candidate version, or defers it; returns an entry, the reason it was refused, or None if unloaded."""
        try:
            manifest = read_manifest(directory)
            if manifest.name in self.unloaded:
                return None
            name, version = manifest.name, manifest.version
            entry = ModelEntry(directory, manifest, ModelMetrics(self.metrics, name, version, manifest.classes))
            if not self._settings.memory_limit_mb:
                entry.model = self._open_model(entry)
            else:
                check_files(directory, manifest)
                if any(old.directory == directory for old in self._all()):  # the version it replaces is valid
                    self._load_within_limit(entry)
                elif not self.opened and self._may_not_fit(entry):  # then the server must not become ready
                    with suppress(ModelNotReady, DeviceMemoryFull):
                        self._load_within_limit(entry)
            other = self._entries.get(name, {}).get(version)
            if other is not None and other.directory != directory:
                raise ArtifactError(f"{directory} says it is {entry.label}, and so does {other.directory}")
            return entry
        except Exception as error:  # engines raise arbitrary exceptions for unsuitable files
            return _reason(directory, error)

    def _install(self, directory: Path, signature: Signature, prepared: ModelEntry | str | None) -> None:
        self._unsettled.pop(directory, None)
        if prepared is None:
            return
        if isinstance(prepared, ModelEntry):
            for old in [entry for entry in self._all() if entry.directory == directory]:
                self._uninstall(old)
            self._entries.setdefault(prepared.manifest.name, {})[prepared.manifest.version] = prepared
            self.failures.pop(str(directory), None)
        else:
            self._record_failure(directory, prepared)
        self._installed[directory] = signature

    def _open_model(self, entry: ModelEntry) -> ServedModel:
        model = open_model(
            entry.directory,
            entry.manifest,
            self._settings,
            gpu=self.gpu,
            metrics=entry.metrics,
            batch_size=entry.batch_size,
        )
        entry.batch_size = model.batch_size
        log.info("%s", describe(model))
        return model

    def _scan(self) -> dict[Path, Signature]:
        if self._installed and not exists(self._settings.artifacts):
            raise ArtifactError(f"{self._settings.artifacts} is gone; what was loaded from it is still served")
        return scan(self._settings.artifacts)

    def _note_ready(self) -> None:
        self.was_ready = self.was_ready or self.not_ready is None

    def _too_large(self) -> list[str]:
        return [entry.too_large for entry in self.entries() if entry.too_large]

    def _all(self) -> Iterator[ModelEntry]:
        return (entry for versions in self._entries.values() for entry in versions.values())

    def _remove_missing(self, found: Container[Path]) -> bool:
        """Drops versions that should no longer be served; returns True if there were any."""
        gone = [e for e in self._all() if e.directory not in found or e.manifest.name in self.unloaded]
        for entry in gone:
            self._uninstall(entry)
        return bool(gone)  # not the list, which would keep all of it in memory

    def _uninstall(self, entry: ModelEntry) -> None:
        """Drops a version; its memory is freed once the requests that use it finish."""
        versions = self._entries[entry.manifest.name]
        del versions[entry.manifest.version]
        if not versions:
            del self._entries[entry.manifest.name]
        self._installed.pop(entry.directory, None)
        log.info("%s is no longer served", entry.label)

    def _forget_directory(self, directory: Path) -> None:
        self._installed.pop(directory, None)
        self._unsettled.pop(directory, None)
        self.failures.pop(str(directory), None)

    def _record_failure(self, directory: Path, reason: str) -> None:
        if self.failures.get(str(directory)) != reason:
            log.error("%s is not served: %s", directory, reason)
        self.failures[str(directory)] = reason


def _reason(directory: Path, error: Exception) -> str:
    return str(error) if isinstance(error, ValueError | OSError) else f"{directory}: {type(error).__name__}: {error}"


def parse_model_name(name: str | None, version: str | None) -> tuple[str | None, str | None]:
    """Splits a name that may be `name:version`.

    Raises:
        UnknownParameter: its version and `version` differ.
    """
    if name is None or ":" not in name:
        return name, version
    name, _, inner = name.partition(":")
    if version is not None and version != inner:
        raise UnknownParameter(f"the request names {name}:{inner} and also version {version}")
    return name, inner


def find_entry(entries: Mapping[str, Mapping[int, ModelEntry]], name: str | None, version: str | None) -> ModelEntry:
    """Selects an entry; by default the newest version, and the only model if no name is given.

    Raises:
        UnknownModel, UnknownParameter: the message lists the served models.
    """
    if name is None:
        if len(entries) > 1:
            raise UnknownParameter(f"several models are served ({', '.join(sorted(entries))}); say model=NAME")
        (name,) = entries
    versions = entries.get(name)
    if versions is None:
        raise UnknownModel(f"no model is called {name[:100]!r}; served are {', '.join(sorted(entries))}")
    if version is not None and (not _is_number(version) or int(version) not in versions):
        known = ", ".join(map(str, sorted(versions)))
        raise UnknownModel(f"{name} has no version {version[:20]!r}; served are {known}")
    return versions[max(versions) if version is None else int(version)]


def _is_number(text: str) -> bool:  # str.isdecimal takes other scripts' digits, and int() raises for thousands of them
    return text.isascii() and text.isdecimal() and len(text) < 10
