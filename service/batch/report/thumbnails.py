"""Small pictures of some of a source's entries, which are read again by their keys."""

import base64
import io
import os
import posixpath
from collections.abc import Callable, Collection, Iterator

from PIL import Image

from models.errors import ConvscopeError
from models.images.decode import decode_picture, to_pil
from models.images.input_spec import InputSpec
from service.batch.entries import Entry, ShardError, block_name, path_of, shard_of
from service.batch.job import Job
from service.batch.reading import content_of, encoded
from service.batch.sources.folder import FolderSource, RemoteSource
from service.batch.sources.listing import ListedShard, ListSource
from service.batch.storage import file_system

SIDE = 96  # pixels
_SPEC = InputSpec(mode="RGB", height=1, width=1, resize=(1, 1), background=(255,) * 3, mean=(0.5,) * 3, std=(0.5,) * 3)


def thumbnails(job: Job, keys: Collection[str]) -> dict[str, str]:
    """`data:` URLs by key, of the images that can be read again."""
    found: dict[str, str] = {}
    for entry in _entries(job, keys):
        try:
            picture = _picture(entry, job.request.limit_pixels)
        except (ConvscopeError, OSError, MemoryError):
            continue  # gone, or changed since
        found[entry.key] = _data_url(picture)
    return found


def _entries(job: Job, keys: Collection[str]) -> Iterator[Entry]:
    find = _finder(job)
    if find is not None:
        yield from map(find, keys)
        return
    blocks: dict[str, set[str]] = {}
    for name, record in job.records.items():
        if here := {one.key for one in record.statistics.uncertain if one.key in keys}:
            blocks[name] = here
    yield from _read_shards(job, blocks)


def _finder(job: Job) -> Callable[[str], Entry] | None:
    """A function that makes an entry of a key, for sources whose keys name files; None for others."""
    source = job.source
    if isinstance(source, FolderSource):
        root = source.root
        return lambda key: Entry(key, path=os.path.join(root, path_of(key)))
    if isinstance(source, RemoteSource):
        protocol = source.url.partition("://")[0]
        start = str(file_system(source.url)._strip_protocol(source.url)).rstrip("/")
        return lambda key: Entry(key, url=f"{protocol}://{posixpath.join(start, key)}")
    if isinstance(source, ListSource):
        base = source.base
        return lambda key: next(ListedShard(key, ((key, {}),), base).entries(lambda index: True))
    return None


def _read_shards(job: Job, blocks: dict[str, set[str]]) -> Iterator[Entry]:
    """Reads the blocks, by their name, that have any of the keys."""
    last = max((shard_of(name) for name in blocks), default=-1)
    rows = job.blocks.rows
    for number, shard in enumerate(job.source.shards(lambda key, reason: None, rows)):
        if number > last:
            return
        left = {key for name, keys in blocks.items() if shard_of(name) == number for key in keys}
        if not left:
            continue

        def needed(index: int, number: int = number) -> bool:
            return block_name(number, index // rows) in blocks

        try:
            for entry in shard.entries(needed):
                if entry.key in left:
                    left.discard(entry.key)
                    yield entry
                if not left:
                    break
        except ShardError:
            continue


def _picture(entry: Entry, limit_pixels: int) -> Image.Image:
    """A decoded entry.

    Raises:
        ConvscopeError, OSError: it cannot be read or decoded.
    """
    if entry.pixels is not None:
        return to_pil(entry.pixels).convert("RGB")
    source = encoded(entry)
    data = content_of(source) if isinstance(source, bytes | str | tuple) else b""
    return to_pil(decode_picture(data, _SPEC, limit_pixels=limit_pixels))


def _data_url(picture: Image.Image) -> str:
    """A PNG file of a small picture, or a JPEG file of a large one that is made smaller."""
    form = "PNG" if max(picture.size) <= SIDE else "JPEG"
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, form, quality=85)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
