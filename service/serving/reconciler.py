"""Updates the catalog at run time: from the artifacts directory, and by calls to load and unload.

A call reaches one worker but applies to all, so it is written to a file that every worker watches, and answered when
every worker has applied it.
"""

import asyncio
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from service.errors import LoadFailed, LoadingOff, UnknownModel, UnknownParameter
from service.serving.artifact_scan import has_model
from service.serving.version_catalog import VersionCatalog
from service.serving.worker_files import WorkerFiles
from service.settings import Settings
from service.telemetry.request_log import log

_INTERVAL_S = 0.2  # one look at one small file


@dataclass(frozen=True)
class DesiredState:
    """The state requested by all calls so far.

    Attributes:
        generation: number of the last call.
        unloaded: names of models.
    """

    generation: int = 0
    unloaded: frozenset[str] = frozenset()


class Reconciler:
    """Keeps one worker's catalog in sync with the directory and the calls."""

    def __init__(self, catalog: VersionCatalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = settings
        self._files: WorkerFiles | None = None
        self._wanted = DesiredState()  # as applied by this worker
        self._applying = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    def start(self, files: WorkerFiles | None) -> None:
        """Opens the catalog and starts watching; call it on the event loop.

        Args:
            files: files shared by the workers of this server; None for a standalone worker.
        """
        self._files = files
        self._wanted = self._read()
        self._reached()
        self._catalog.was_ready = bool(files and files.ready.exists())
        self._catalog.open(self._wanted.unloaded)
        self._note_ready()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def load(self, name: str) -> None:
        """Loads an unloaded model, or new versions of a model, in every worker.

        Raises:
            UnknownModel: the directory has no such model.
            LoadFailed: a version cannot be served; the others are.
        """
        await self._call(name, unload=False)
        async with self._applying:  # not during a later call
            if name in self._catalog.unloaded:
                raise LoadFailed(f"{name} was unloaded again by a later call")
            served = [entry for entry in self._catalog.entries() if entry.manifest.name == name]
        folders = {entry.directory.parent for entry in served}
        failures = {Path(where): why for where, why in self._catalog.failures.items()}
        if found := [why for where, why in failures.items() if where.parent in folders or where.parent.name == name]:
            raise LoadFailed(f"{name}: {'; '.join(found)}")
        if not served:
            raise UnknownModel(f"no model is called {name[:100]!r} in {self._settings.artifacts}")

    async def unload(self, name: str) -> None:
        """Unloads every version of a model, in every worker.

        Raises:
            UnknownModel: see `load`.
        """
        served = {entry.manifest.name for entry in self._catalog.entries()}
        if name not in served | self._catalog.unloaded and not await asyncio.to_thread(
            has_model, self._settings.artifacts, name
        ):
            raise UnknownModel(f"no model is called {name[:100]!r}; served are {', '.join(sorted(served)) or 'none'}")
        await self._call(name, unload=True)

    def check_allowed(self, name: str) -> None:
        """Checks that a call is allowed, before its body is read.

        Raises:
            LoadingOff: the server does not accept such calls.
            UnknownParameter: the name includes a version; a model is loaded and unloaded with all its versions.
        """
        if not self._settings.allow_loading:
            stays = f"loading and unloading are off, so {name[:100]!r} stays as it is"
            raise LoadingOff(f"{stays}; the setting CONVSCOPE_ALLOW_LOADING allows them")
        if ":" in name:
            raise UnknownParameter(
                f"{name[:100]!r} names a version; a model is loaded and unloaded with all its versions"
            )

    async def _call(self, name: str, *, unload: bool) -> None:
        wanted = self._change(name, unload=unload)
        await self._apply(wanted)
        if self._files:
            while not self._files.all_reached(wanted.generation):
                await asyncio.sleep(_INTERVAL_S / 4)

    async def _apply(self, wanted: DesiredState) -> None:
        async with self._applying:
            if wanted.generation <= self._wanted.generation:
                return
            self._catalog.unloaded = wanted.unloaded
            await self._catalog.refresh(settled=False)
            self._wanted = wanted
            self._reached()

    def _note_ready(self) -> None:
        if self._files and self._catalog.was_ready:
            self._files.ready.touch()  # a replacement worker starts from it

    def _reached(self) -> None:
        if self._files:
            self._files.reached(self._wanted.generation)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        every_s = self._settings.watch_s
        last = loop.time()
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                if (wanted := self._read()).generation > self._wanted.generation:
                    await self._apply(wanted)
                elif every_s and loop.time() - last >= every_s:
                    await self._catalog.refresh()
                    self._note_ready()
                    last = loop.time()
            except Exception:  # without the watcher this worker would never update again
                log.exception("the artifacts directory could not be looked at")

    def _read(self) -> DesiredState:
        if self._files is None:
            return self._wanted
        try:
            content = orjson.loads(self._files.wanted.read_bytes())
        except FileNotFoundError:
            return DesiredState()
        return DesiredState(content["generation"], frozenset(content["unloaded"]))

    def _change(self, name: str, *, unload: bool) -> DesiredState:
        """Writes the new requested state; one worker at a time."""
        if self._files is None:
            return _changed(self._wanted, name, unload=unload)
        with self._files.wanted.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held only while some bytes are written
            wanted = _changed(self._read(), name, unload=unload)
            temporary = self._files.wanted.with_suffix(".tmp")
            temporary.write_bytes(orjson.dumps({"generation": wanted.generation, "unloaded": sorted(wanted.unloaded)}))
            os.replace(temporary, self._files.wanted)
        return wanted


def _changed(wanted: DesiredState, name: str, *, unload: bool) -> DesiredState:
    unloaded = wanted.unloaded | {name} if unload else wanted.unloaded - {name}
    return DesiredState(wanted.generation + 1, unloaded)
