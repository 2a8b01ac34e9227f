"""Decodes in processes of their own, into memory that is shared with the process that runs the network."""

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np

from models.allocator import retain_freed_memory
from models.errors import ConvscopeError
from models.images.decode import Pixels, decode_image, preprocess_image, to_pil
from models.images.errors import ImageError
from models.images.input_spec import InputSpec
from models.results import ImageFailure
from service.batch.reading import Encoded, content_of, read_ahead

SHARED_MEMORY = Path("/dev/shm")
_NICENESS = 10  # below the network, whose threads wait for each other in every layer; a tenth more images/s
_TRIES = 2  # of a batch in which a process dies, before its images are tried one by one


@dataclass(frozen=True)
class Decoded:
    """What became of a batch.

    Attributes:
        failures, notes: by the position in the batch.
        seconds: reading and decoding took.
    """

    failures: dict[int, ImageFailure] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0


class Slots:
    """Places for decoded batches, in shared memory.

    Args:
        count: number of places.
        shape: of a batch, (N, H, W, C).
        folder: where the file lies; `/dev/shm` if it has room, or else a temporary folder.
    """

    def __init__(self, count: int, shape: tuple[int, ...], folder: Path | None = None) -> None:
        size = int(np.prod((count, *shape)))
        self.folder = folder or _folder_with(size)
        self._file = tempfile.NamedTemporaryFile(dir=self.folder, prefix="convscope-batch-", delete=False)
        self.path, self.shape, self.count = self._file.name, shape, count
        try:
            os.posix_fallocate(self._file.fileno(), 0, size)  # else a full disk ends the process by a signal
        except OSError as error:
            self.close()
            raise ConvscopeError(
                f"{size / 1e6:.0f} MB for images are not free in {self.folder}: {error.strerror}"
            ) from None
        self._places: Pixels | None = _mapped(self.path, count, shape)
        opened = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        if os.path.exists(opened):  # the file needs no name, and is gone even if this process is killed
            os.unlink(self.path)
            self.path = opened

    def __getitem__(self, slot: int) -> Pixels:
        """The place for a batch, uint8 (N, H, W, C)."""
        assert self._places is not None, "not closed"
        found: Pixels = self._places[slot]
        return found

    def close(self) -> None:
        """Gives the memory back."""
        self._places = None
        self._file.close()
        if not self.path.startswith("/proc/"):
            os.unlink(self.path)


class Decoders:
    """Processes that decode batches into slots. A process that dies is replaced, and an image that ends processes gets
    an error.

    Args:
        processes: their number.
        slots: the memory.
        spec: of the network's input.
        limit_pixels: maximum width x height of an image.
    """

    def __init__(self, processes: int, slots: Slots, spec: InputSpec, limit_pixels: int) -> None:
        self._count, self._slots = processes, slots
        self._make = partial(
            ProcessPoolExecutor,
            mp_context=get_context("spawn"),
            initializer=_prepare,
            initargs=(slots.path, slots.count, slots.shape, spec, limit_pixels),
        )
        self._pool = self._make(processes)
        self._lock = threading.Lock()

    def submit(self, slot: int, sources: Sequence[Encoded]) -> "Decoding":
        """Starts to decode a batch into a slot."""
        with self._lock:
            try:
                return Decoding(slot, sources, self._pool.submit(decode_batch, slot, sources), self._pool)
            except BrokenExecutor as error:
                broken: Future[Decoded] = Future()
                broken.set_exception(error)
                return Decoding(slot, sources, broken, self._pool)

    def result(self, decoding: "Decoding") -> Decoded:
        """Waits for a batch, again if a process died meanwhile."""
        for attempt in range(_TRIES + 1):
            try:
                return decoding.future.result()
            except BrokenExecutor:
                self._replace(decoding.pool)
                if attempt < _TRIES:
                    decoding = self.submit(decoding.slot, decoding.sources)
        return self._one_by_one(decoding.slot, decoding.sources)

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if pool is self._pool:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._make(self._count)

    def _one_by_one(self, slot: int, sources: Sequence[Encoded]) -> Decoded:
        """Decodes each image in a process that may die of it."""
        found, pool = Decoded(), self._make(1)
        try:
            for place, source in enumerate(sources):
                try:
                    one = pool.submit(decode_batch, slot, [source], place).result()
                except BrokenExecutor:
                    failure = ImageFailure("decoder_crashed", "the process that decoded the image died")
                    one = Decoded({place: failure})
                    pool.shutdown(wait=False)
                    pool = self._make(1)
                    if not _starts(pool):
                        raise ConvscopeError("processes that decode end at once; is there too little memory?") from None
                found.failures.update(one.failures)
                found.notes.update(one.notes)
        finally:
            pool.shutdown(wait=False)
        return found

    def close(self) -> None:
        """Ends the processes; batches in progress are lost."""
        processes = list((self._pool._processes or {}).values())  # which `shutdown` forgets
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            with suppress(Exception):
                process.terminate()
                process.join(5)


def _starts(pool: ProcessPoolExecutor) -> bool:
    """True if a process of the pool lives until it has done something harmless."""
    try:
        return pool.submit(os.getpid).result() > 0
    except BrokenExecutor:
        return False


@dataclass(frozen=True)
class Decoding:
    """A batch that is being decoded into a slot."""

    slot: int
    sources: "Sequence[Encoded]"
    future: "Future[Decoded]"
    pool: ProcessPoolExecutor


_places: Pixels
_decode: Callable[[Encoded, list[str]], Pixels]


def decode_batch(slot: int, sources: Sequence[Encoded], first: int = 0) -> Decoded:
    """Decodes into a slot, from its place `first` on; runs in a process that `_prepare` has prepared.

    Raises:
        StorageFailed: see `read_ahead`.
    """
    began, found = time.perf_counter(), Decoded()
    places = _places[slot]
    for place, source in enumerate(read_ahead(sources), first):
        notes: list[str] = []
        failure = decode_into(places[place], source, notes, _decode)
        if failure is not None:
            found.failures[place] = failure
        elif notes:
            found.notes[place] = tuple(notes)
    return Decoded(found.failures, found.notes, time.perf_counter() - began)


def decode_into(
    place: Pixels, source: Encoded, notes: list[str], decode: Callable[[Encoded, list[str]], Pixels]
) -> ImageFailure | None:
    """Decodes one image; its place becomes black if that fails."""
    failure = source if isinstance(source, ImageFailure) else None
    if failure is None and source is not None:
        try:
            place[...] = decode(source, notes)
            return None
        except ImageError as error:
            failure = ImageFailure(error.code, str(error))
        except OSError as error:
            failure = ImageFailure("file_unreadable", str(error.strerror or error))
        except MemoryError:
            failure = ImageFailure("image_too_large", "too little memory to decode the image")
    place[...] = 0
    return failure


def decoder(spec: InputSpec, limit_pixels: int) -> Callable[[Encoded, list[str]], Pixels]:
    """A function that reads and decodes one source as the server does."""

    def decode(source: Encoded, notes: list[str]) -> Pixels:
        if isinstance(source, np.ndarray):
            return preprocess_image(to_pil(source), spec)
        assert isinstance(source, bytes | str | tuple), "failures are not decoded"
        return decode_image(content_of(source), spec, limit_pixels=limit_pixels, notes=notes)

    return decode


def _prepare(path: str, count: int, shape: tuple[int, ...], spec: InputSpec, limit_pixels: int) -> None:
    global _places, _decode
    os.nice(_NICENESS)
    retain_freed_memory(large=False)
    try:
        _places, _decode = _mapped(path, count, shape), decoder(spec, limit_pixels)
    except FileNotFoundError:
        os._exit(1)  # the job ended while this process was starting
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process if the one that uses its images is killed; it would wait for work forever."""
    parent = parent_process()
    assert parent is not None, "this process was started for decoding"
    parent.join()
    os._exit(1)


def _mapped(path: str, count: int, shape: tuple[int, ...]) -> Pixels:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8).reshape(count, *shape)


def _folder_with(size: int) -> Path:
    """`/dev/shm` if it has twice the room, else the folder for temporary files."""
    with suppress(OSError):
        found = os.statvfs(SHARED_MEMORY)
        if found.f_bavail * found.f_frsize >= 2 * size and os.access(SHARED_MEMORY, os.W_OK):
            return SHARED_MEMORY
    return Path(tempfile.gettempdir())
