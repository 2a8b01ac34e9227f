"""Sends a job's images to a server, as many at once as it takes, and hands over finished blocks."""

import asyncio
import io
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import numpy as np
from PIL import Image

from models.images.decode import to_pil
from models.images.errors import EmptyImage
from models.results import ImageFailure
from service.batch.entries import Batch
from service.batch.local import Seconds, Work
from service.batch.reading import Encoded, content_of, encoded, read_ahead
from service.batch.remote.server import ONE_PIXEL, TIMEOUT_S, Server, ServerError, failure_of
from service.batch.remote.window import Window
from service.batch.rows import Outputs
from service.client.connection import connect_async
from service.client.protocol import retry_after_s

_REQUEST_BYTES = 4 * 2**20  # of a request with several images
_TRIES = 5  # of an image on which inference fails, while the server classifies others
_LONGEST_WAIT_S = 30.0
_CONGESTED = (429, 504)
_RETRIED = (429, 500, 502, 503, 504)
_OF_AN_IMAGE = ("scores_not_finite", "body_too_large")  # beside codes that begin with image_
_SPLIT = ("too_many_images", "body_too_large", "inference_failed", "deadline_passed")
_READERS = 16  # threads that read images
_BYTES = {"content-type": "application/octet-stream"}  # not JSON, whatever the file begins with


@dataclass
class _Block:
    """A block some of whose images are on the way.

    Attributes:
        left: batches on the way.
        closed: true once all batches were sent.
    """

    work: Work
    found: dict[int, "Row"] = field(default_factory=dict)
    left: int = 0
    closed: bool = False


Row = ImageFailure | tuple[list[tuple[int, float]], tuple[str, ...]]  # classes with probabilities, and notes


class Sender:
    """Runs batches on a server.

    Args:
        server: the model.
        batch_size: images of a request; fewer where the server takes no more.
        finish: is called with every block that ran, in a thread of its own.
    """

    def __init__(self, server: Server, *, batch_size: int, finish: Callable[[Work], None]) -> None:
        self.seconds = Seconds()
        self.window = Window()
        self._server, self._finish = server, finish
        self._images = batch_size
        self._heard = time.monotonic()

    def run(self, batches: Iterator[Batch]) -> None:
        """Runs all batches that are needed; returns when all blocks are finished.

        Raises:
            ServerError: the server stays away, refuses the requests, or serves another model now.
            Exception: anything that reading or `finish` raises; what was in progress is lost.
        """
        try:
            asyncio.run(self._run(batches))
        except BaseExceptionGroup as several:
            found: BaseException = several
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            raise found from None

    async def _run(self, batches: Iterator[Batch]) -> None:
        loop = asyncio.get_running_loop()
        block, began = _Block(Work("")), time.perf_counter()
        with (
            ThreadPoolExecutor(1) as source,
            ThreadPoolExecutor(_READERS) as self._readers,
            ThreadPoolExecutor(1) as self._writer,
        ):
            places = asyncio.Semaphore(self.window.most)  # batches in memory, those that wait to be sent again too
            address = self._server.address
            async with (
                connect_async(
                    address.url, headers=address.headers, timeout_s=TIMEOUT_S, connections=self.window.most
                ) as self._http,
                asyncio.TaskGroup() as tasks,
            ):
                while (batch := await loop.run_in_executor(source, next, batches, None)) is not None:
                    self.seconds.reading += time.perf_counter() - began
                    if block.work.name != batch.block:
                        block = _Block(Work(batch.block))
                    block.work.add(batch)
                    sources = [encoded(batch.entries[place]) for place in batch.runs]
                    for entry in batch.entries:
                        entry.drop_content()
                    block.closed = batch.closes
                    if batch.runs:
                        block.left += 1
                        await places.acquire()
                        tasks.create_task(self._send_batch(block, batch, sources, places))
                    elif batch.closes and block.left == 0 and (block.work.positions or not block.work.entries):
                        await self._close(block)
                    began = time.perf_counter()

    async def _send_batch(
        self, block: _Block, batch: Batch, sources: Sequence[Encoded], places: asyncio.Semaphore
    ) -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        contents = await loop.run_in_executor(self._readers, lambda: list(map(file_of, read_ahead(sources))))
        self.seconds.reading += time.perf_counter() - began
        ready: list[tuple[int, bytes]] = []
        for place, content in zip(batch.runs, contents, strict=True):
            if isinstance(content, bytes):
                ready.append((batch.start + place, content))
            else:
                block.found[batch.start + place] = content
        for part in _parts(ready, self._images):
            block.found |= await self._classify(part)
        places.release()
        block.left -= 1
        if block.closed and block.left == 0:
            await self._close(block)

    async def _close(self, block: _Block) -> None:
        """Hands a block over, if its images were still classified by the same artifact."""
        if block.work.positions:
            await self._check_same()
            block.work.parts.append(self._outputs([block.found[position] for position in block.work.positions]))
        began = time.perf_counter()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._finish, block.work)
        self.seconds.writing += time.perf_counter() - began

    async def _classify(self, images: Sequence[tuple[int, bytes]]) -> dict[int, Row]:
        """The rows of some images by position; sends them until there are answers to all.

        Raises:
            ServerError: see `run`.
        """
        failed = 0
        for attempt in count():
            answer, code, reason = await self._post(images)
            if answer is not None and answer.status_code == 200:
                rows = self._rows(answer, len(images))
                return {position: row for (position, _), row in zip(images, rows, strict=True)}
            lone: dict[int, Row] = {images[0][0]: ImageFailure(code, reason)}
            if len(images) == 1 and (code.startswith("image_") or code in _OF_AN_IMAGE):
                return lone
            if len(images) > 1 and code in _SPLIT:
                half = len(images) // 2
                if code == "too_many_images":
                    self._images = max(1, min(self._images, half))
                return await self._classify(images[:half]) | await self._classify(images[half:])
            if answer is not None and answer.status_code not in _RETRIED:
                raise ServerError(f"{self._server.address.url}: {reason}; stopped, --resume goes on")
            failed += code in ("inference_failed", "deadline_passed")
            if code == "deadline_passed" and failed < _TRIES:
                self._heard = time.monotonic()  # the server is there, and busy with this image
            if failed >= _TRIES and await self._runs():
                return lone
            await self._wait(answer, attempt, reason)
        raise AssertionError("patience ends before")

    async def _post(self, images: Sequence[tuple[int, bytes]]) -> tuple[httpx.Response | None, str, str]:
        """An answer, if there is one, with the code and message of its error."""
        parameters = {"model": self._server.label, "top_k": str(self._server.wanted.top_k)}
        files = [("image", (str(position), data)) for position, data in images]
        lone = {"content": images[0][1], "headers": _BYTES}
        options: dict[str, Any] = {"files": files} if len(files) > 1 else lone
        token = await self.window.enter()
        began = time.perf_counter()
        try:
            answer = await self._http.post("/v1/classify", params=parameters, **options)
        except httpx.TransportError as error:
            return None, "", str(error) or type(error).__name__
        finally:
            self.seconds.server += time.perf_counter() - began
            self.window.leave()
        if answer.status_code in _CONGESTED:
            self.window.refused(token)
        elif answer.status_code < 500:
            self.window.answered()
        if answer.status_code < 500:
            self._heard = time.monotonic()
        return (answer, "", "") if answer.status_code == 200 else (answer, *failure_of(answer))

    async def _runs(self) -> bool:
        """True if the server classifies another image."""
        try:
            parameters = {"model": self._server.label}
            return (await self._http.post("/v1/classify", params=parameters, content=ONE_PIXEL)).status_code == 200
        except httpx.TransportError:
            return False

    async def _wait(self, answer: httpx.Response | None, attempt: int, reason: str) -> None:
        """Waits before a further attempt, as long as the server asks for, or a growing time.

        Raises:
            ServerError: the server has not answered for too long.
        """
        address = self._server.address
        silent = time.monotonic() - self._heard
        if silent > address.patience_s:
            raise ServerError(
                f"no answer from {address.url} for {silent:.0f} s: {reason}; stopped, --resume goes on once it is back"
            )
        growing = min(0.25 * 2 ** min(attempt, 16), _LONGEST_WAIT_S)
        asked = retry_after_s(answer)
        # Those that were refused together do not come back together.
        await asyncio.sleep(asked + random.uniform(0, 0.25) if asked else random.uniform(0.5, 1) * growing)

    async def _check_same(self) -> None:
        headers = {"if-none-match": f'"{self._server.etag}"', **self._server.graph["headers"]}
        for attempt in count():
            answer, reason = None, ""
            try:
                answer = await self._http.get(self._server.graph["url"], headers=headers)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            if answer is not None:
                self._server.check_same(answer)
                if answer.status_code in (200, 304):
                    return
                reason = failure_of(answer)[1]
                if answer.status_code not in _RETRIED:
                    raise ServerError(f"{self._server.address.url}: {reason}; stopped, --resume goes on")
            await self._wait(answer, attempt, reason)

    def _rows(self, answer: httpx.Response, wanted: int) -> list[Row]:
        """The rows of an answer.

        Raises:
            ServerError: it is not convscope's, or of another version.
        """
        try:
            found = answer.json()
            label = f"{found['model']}:{found['version']}"
            rows = [_row(one) for one in found["results"]]
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"{self._server.address.url} does not answer as convscope does") from None
        if label != self._server.label or len(rows) != wanted:
            raise ServerError(f"{self._server.address.url} answers with {len(rows)} results of {label}; stopped")
        return rows

    def _outputs(self, rows: Sequence[Row]) -> Outputs:
        """Probabilities of the classes in the answers; the others, which no row has, are 0."""
        found = Outputs(np.zeros((len(rows), len(self._server.classes)), np.float32))
        for place, row in enumerate(rows):
            if isinstance(row, ImageFailure):
                found.failures[place] = row
                continue
            for index, probability in row[0]:
                found.probabilities[place, index] = probability
            if row[1]:
                found.notes[place] = row[1]
        return found


def file_of(source: Encoded) -> bytes | ImageFailure:
    """The file that is sent for an entry, or why there is none."""
    try:
        if isinstance(source, np.ndarray):
            file = io.BytesIO()
            picture: Image.Image = to_pil(source)
            picture.save(file, "PNG", compress_level=1)
            return file.getvalue()
        if isinstance(source, bytes | str | tuple):
            source = content_of(source)
    except OSError as error:
        return ImageFailure("file_unreadable", str(error.strerror or error))
    assert isinstance(source, bytes | ImageFailure), "only needed entries are sent"
    return source if source else ImageFailure(EmptyImage.code, "the image has no bytes")


def _parts(images: Sequence[tuple[int, bytes]], most: int) -> Iterator[list[tuple[int, bytes]]]:
    """Requests of up to `most` images and `_REQUEST_BYTES` bytes, or of one image."""
    part: list[tuple[int, bytes]] = []
    size = 0
    for image in images:
        if part and (len(part) >= most or size + len(image[1]) > _REQUEST_BYTES):
            yield part
            part, size = [], 0
        part.append(image)
        size += len(image[1])
    if part:
        yield part


def _row(one: dict[str, Any]) -> Row:
    if "error" in one:
        return ImageFailure(str(one["error"]["code"]), str(one["error"]["message"]))
    pairs = [(int(found["index"]), float(found["probability"])) for found in one["predictions"]]
    return pairs, tuple(map(str, one.get("notes", ())))
