"""The models that are served: found in the artifacts directory, opened, replaced, let go, and looked up."""

import asyncio
import itertools
from collections.abc import Callable, Container, Iterator, Mapping
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
    """All models under the artifacts directory. A bad one is left out and named; the others are served.

    Attributes:
        failures: why an artifact is not served as it lies there, by its directory.
        unloaded: names of models that are not to be served though they lie there.
        was_ready: everything was served once. From then on a bad version is named, and the server stays ready.
        draining: this worker is about to end.
        gpu: the device of the models, where it is not the CPU.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: dict[str, dict[int, ModelEntry]] = {}
        self._installed: dict[Path, Signature] = {}  # what every directory looked like when it was opened, or refused
        self._unsettled: dict[Path, Signature] = {}  # and how it has changed since, until it stays so
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
        """Opens every version; reads hashes and runs golden images. Nothing is answered yet.

        Raises nothing, whatever an artifact or an engine does: a worker that fails to start would be started for ever.
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
        """Takes in what has changed in the directory. Requests go on meanwhile, with what there was.

        A version that cannot be served replaces nothing. One whose files are gone, or whose model is in `unloaded`, is
        let go.

        Args:
            settled: passes over what has changed since the last look, for it may still be being written; without it,
                what could not be served is tried again too, for its cause may lie outside of its files.
        """
        async with self._lock:
            try:
                found = await asyncio.to_thread(self._scan)
            except (ArtifactError, OSError) as error:  # a share that is away for a while: nothing is lost
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
        """Why the server is not ready, or None."""
        if self.draining:
            return "the server is shutting down"
        if self.gpu.failure:
            return self.gpu.failure
        if not self.opened:
            return "the models are being loaded"
        if self.failures and not self.was_ready:
            return "; ".join(self.failures.values())
        if not self._entries and not self.unloaded:
            if self.failures:
                return "; ".join(self.failures.values())
            return f"no artifact in {self._settings.artifacts}; `convscope export` writes one"
        return None

    def entries(self) -> list[ModelEntry]:
        """Everything that is served, by name and version, in memory or not."""
        return sorted(self._all(), key=lambda entry: (entry.manifest.name, entry.manifest.version))

    def models(self) -> list[ServedModel]:
        """All models in memory, by name and version."""
        return [entry.model for entry in self.entries() if entry.model]

    def entry(self, name: str | None, version: str | None = None) -> ModelEntry:
        """The model called `name` or `name:version`; the newest version if none is given, the only model if no name is.

        Raises:
            UnknownModel, UnknownParameter, ModelNotReady: the message lists what there is.
            GpuLost: nothing can be run any more.
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
        """Finds a model as `entry` does, and loads it if it is not in memory.

        Args:
            on_lookup: called with the version that is about to be returned or loaded.

        Raises:
            UnknownModel, UnknownParameter, ModelNotReady, GpuLost: as `entry`; or it does not load, or not fit.
            DeviceMemoryFull, DeviceLost: while it was being loaded.
        """
        while True:
            entry = self.entry(name, version)
            if on_lookup is not None:
                on_lookup(entry)
            entry.last_used = next(self._clock)
            if entry.model is not None:
                return entry.model
            if entry.loading is None:  # a task of its own: it goes on for the others when this request is given up
                entry.loading = asyncio.create_task(self._load(entry))
                entry.loading.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                return await asyncio.shield(entry.loading)
            except ModelNotReady:
                asked_for = version is not None or ":" in (name or "")
                if asked_for or entry in self._all() or entry.manifest.name not in self._entries:
                    raise  # else it was the newest and is refused now, and the one before it answers

    async def _load(self, entry: ModelEntry) -> ServedModel:
        async with self._lock:
            try:
                return await asyncio.to_thread(self._load_within_limit, entry)
            except (ModelNotReady, DeviceMemoryFull, DeviceLost):  # nothing that is wrong with the artifact
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
            model = self._open_within_limit(entry)  # without what larger batches took while they were timed
        if model is None:
            raise ModelNotReady(entry.too_large)
        entry.model, entry.too_large = model, ""
        return model

    def _open_within_limit(self, entry: ModelEntry) -> ServedModel | None:
        """The model, if this worker is within its limit with it; other models make room first."""
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
        """Lets go of the least recently used models until `more_mb` fit under the limit, or nothing else is left."""
        others = sorted((e for e in self._all() if e.model and e is not wanted), key=lambda e: e.last_used)
        while others and resident_mb() + more_mb > self._settings.memory_limit_mb:
            victim = others.pop(0)
            victim.model = None
            log.info("%s leaves the memory to make room for %s", victim.label, wanted.label)
            give_back()

    def _load_candidate(self, directory: Path) -> ModelEntry | str | None:
        """A version as it lies there, opened unless that waits; why it cannot be served; or None if it must not be."""
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
                if any(old.directory == directory for old in self._all()):  # what it replaces is good
                    self._load_within_limit(entry)
            other = self._entries.get(name, {}).get(version)
            if other is not None and other.directory != directory:
                raise ArtifactError(f"{directory} says it is {entry.label}, and so does {other.directory}")
            return entry
        except Exception as error:  # engines raise what they like on a file that does not fit
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

    def _all(self) -> Iterator[ModelEntry]:
        return (entry for versions in self._entries.values() for entry in versions.values())

    def _remove_missing(self, found: Container[Path]) -> bool:
        """Drops what is not to be served any more, and says whether there was any."""
        gone = [e for e in self._all() if e.directory not in found or e.manifest.name in self.unloaded]
        for entry in gone:
            self._uninstall(entry)
        return bool(gone)  # and not the list, through which all of it would still be in memory

    def _uninstall(self, entry: ModelEntry) -> None:
        """Forgets a version; requests that have it finish with it, and then its memory is free."""
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
    """Name and version, where the name may be `name:version`.

    Raises:
        UnknownParameter: that version and the other one differ.
    """
    if name is None or ":" not in name:
        return name, version
    name, _, inner = name.partition(":")
    if version is not None and version != inner:
        raise UnknownParameter(f"the model is asked for as {name}:{inner} and as version {version}")
    return name, inner


def find_entry(entries: Mapping[str, Mapping[int, ModelEntry]], name: str | None, version: str | None) -> ModelEntry:
    """One of several entries; the newest version if none is given, the only model if no name is.

    Raises:
        UnknownModel, UnknownParameter: the message lists what there is.
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


def _is_number(text: str) -> bool:  # str.isdecimal takes other scripts' digits, and int() refuses thousands of them
    return text.isascii() and text.isdecimal() and len(text) < 10
