"""One machine: a thread reads, processes decode, this thread runs the network, and another one writes, all at once."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.images.decode import Floats
from models.results import ImageFailure
from service.batch.decoding import Decoded, Decoders, Decoding, Slots
from service.batch.entries import Batch, Entry
from service.batch.network import Network
from service.batch.reading import encoded
from service.batch.rows import Outputs

_POLL_S = 0.2


@dataclass
class Seconds:
    """Time of the stages, in seconds; those of decoding add up over processes, those of a server
    over requests."""

    reading: float = 0.0
    decoding: float = 0.0
    network: float = 0.0
    writing: float = 0.0
    server: float = 0.0


@dataclass
class Work:
    """A block that is being worked on.

    Attributes:
        name: of the block.
        entries: those so far, without content.
        positions: of those that ran.
        parts: outputs of those that ran, by batch.
        last, problem: see `Batch`.
    """

    name: str
    entries: list[Entry] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parts: list[Outputs] = field(default_factory=list)
    last: bool = False
    problem: str = ""

    def add(self, batch: Batch) -> None:
        """Adds the entries of a batch."""
        self.entries += batch.entries
        self.positions += [batch.start + place for place in batch.runs]
        self.last, self.problem = batch.last, batch.problem

    @property
    def outputs(self) -> Outputs:
        """Of the positions that ran, in their order."""
        failures: dict[int, ImageFailure] = {}
        notes: dict[int, tuple[str, ...]] = {}
        at = 0
        for part in self.parts:
            failures |= {at + place: failure for place, failure in part.failures.items()}
            notes |= {at + place: texts for place, texts in part.notes.items()}
            at += len(part.probabilities)

        def joined(values: list[Any]) -> Any:
            return None if values[0] is None else np.concatenate(values)

        return Outputs(
            joined([part.probabilities for part in self.parts]),
            joined([part.logits for part in self.parts]),
            joined([part.embedding for part in self.parts]),
            failures,
            notes,
        )


class Stopped(Exception):
    """The job was asked to stop."""


class Pipeline:
    """Runs batches through decoding and the network, and hands over finished blocks.

    Args:
        network: the artifact.
        batch_size: images of a batch; shorter ones are filled up, so that results do not depend on it.
        processes: that decode.
        limit_pixels: maximum width x height of an image.
        finish: is called with every block that ran, in a thread of its own.
    """

    def __init__(
        self, network: Network, *, batch_size: int, processes: int, limit_pixels: int, finish: Callable[[Work], None]
    ) -> None:
        self.seconds = Seconds()
        self._network, self._finish = network, finish
        spec = network.predictor.manifest.input
        self.slots = Slots(2 * processes + 2, (batch_size, *spec.shape))
        self._decoders = Decoders(processes, self.slots, spec, limit_pixels)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.slots.count):
            self._free.put(slot)
        self._decoding: queue.Queue[tuple[Work, Batch, Decoding | None] | None] = queue.Queue()
        self._writing: queue.Queue[Work | None] = queue.Queue(maxsize=2)
        self._stop, self._error = threading.Event(), list[BaseException]()

    def run(self, batches: Iterator[Batch]) -> None:
        """Runs all batches that are needed; returns when all blocks are finished.

        Raises:
            Exception: anything that reading, the network or `finish` raises; what was in progress is lost.
        """
        threads = [
            threading.Thread(target=self._guarded, args=(task,), daemon=True)
            for task in (lambda: self._read(batches), self._write)
        ]
        for thread in threads:
            thread.start()
        try:
            while (item := self._next(self._decoding)) is not None:
                self._compute(*item)
            self._put(self._writing, None)
        except Stopped:
            pass
        except BaseException as error:
            self._error.append(error)
            raise
        finally:
            if self._error:
                self._stop.set()
            for thread in threads:
                thread.join()
            self._decoders.close()
            self.slots.close()
        if self._error:
            raise self._error[0]

    def _read(self, batches: Iterator[Batch]) -> None:
        work, began = Work(""), time.perf_counter()
        for batch in batches:
            self.seconds.reading += time.perf_counter() - began
            if work.name != batch.block:
                work = Work(batch.block)
            work.add(batch)
            decoding = None
            if batch.runs:
                runs = set(batch.runs)
                sources = [encoded(entry) if i in runs else None for i, entry in enumerate(batch.entries)]
                decoding = self._decoders.submit(self._next(self._free), sources)
            for entry in batch.entries:
                entry.drop_content()
            if decoding or (batch.closes and (work.positions or not work.entries)):
                self._decoding.put((work, batch, decoding))
            began = time.perf_counter()
        self._decoding.put(None)

    def _compute(self, work: Work, batch: Batch, decoding: Decoding | None) -> None:
        if decoding is not None:
            decoded = self._decoders.result(decoding)
            began = time.perf_counter()
            self.seconds.decoding += decoded.seconds
            found = self._network.run(self.slots[decoding.slot])
            work.parts.append(_taken(found, batch.runs, decoded, logits=self._network.wanted.logits))
            self._free.put(decoding.slot)
            self.seconds.network += time.perf_counter() - began
        if batch.closes:
            self._put(self._writing, work)

    def _write(self) -> None:
        while (work := self._next(self._writing)) is not None:
            began = time.perf_counter()
            self._finish(work)
            self.seconds.writing += time.perf_counter() - began

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Stopped:
            pass
        except BaseException as error:
            self._error.append(error)
            self._stop.set()

    def _next(self, items: Any) -> Any:
        """The next item of a queue.

        Raises:
            Stopped: another thread failed.
        """
        while not self._stop.is_set():
            with suppress(queue.Empty):
                return items.get(timeout=_POLL_S)
        raise Stopped

    def _put(self, items: "queue.Queue[Any]", item: object) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                items.put(item, timeout=_POLL_S)
                return
        raise Stopped


def _taken(
    found: tuple[Floats, Floats, Floats | None], runs: Sequence[int], decoded: Decoded, *, logits: bool
) -> Outputs:
    """The outputs of the positions that ran."""
    place = {position: number for number, position in enumerate(runs)}
    rows = list(runs)
    return Outputs(
        found[0][rows],
        found[1][rows] if logits else None,
        None if found[2] is None else found[2][rows],
        {place[i]: failure for i, failure in decoded.failures.items() if i in place},
        {place[i]: texts for i, texts in decoded.notes.items() if i in place},
    )
