"""Builds a reference index: one pass over a data set, which is not needed afterwards."""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from export.artifact.manifest import ONNX_FILE
from export.engines.machine import installed_version
from export.predictor import Predictor
from models.errors import UserError
from models.files import UnwritableError
from models.graph.node import Node
from models.images.decode import Floats, Pixels, to_pil
from service.inspection.layers import by_channel
from service.inspection.references.files import (
    CHANNELS_FILE,
    CLASSES,
    COMPONENTS_FILE,
    FOLDER,
    INDEX_FILE,
    PICTURES_FILE,
    PIXELS_FILE,
    QUANTILES,
    SCHEMA,
    channel_type,
    picture_type,
)
from service.inspection.references.normal import Distribution
from service.inspection.units import extractor_of

Indices = npt.NDArray[np.int64]

_RUN_VALUES = 64_000_000  # values of all layers that one run may return: 256 MB
_MOST_IMAGES = 64  # in one run
_SAMPLE, _SAMPLE_VALUES = 2000, 50_000_000  # images whose channel means are kept for quantiles, and values of these
_LOSSLESS_PIXELS = 64 * 64  # larger pictures are kept as lossy WebP, a fifth of the size


@dataclass(frozen=True)
class Source:
    """The data set of an index.

    Attributes:
        name, split: such as `mnist` and `test`.
        sha256: of the data set.
        names: file names of the images; empty if it has no files.
    """

    name: str
    split: str
    sha256: str
    names: Sequence[str] = ()


class _LayerSums:
    """Sums and highest values of one layer's channels over the images so far."""

    def __init__(self, node: Node, channels: int, references: int, classes: int, sample: int) -> None:
        self.node = node
        self.largest = np.full((channels, references), -np.inf, np.float32)
        self.image = np.full((channels, references), -1, np.int64)
        self.place = np.zeros((channels, references), np.int64)
        self.sum, self.squares = np.zeros(channels), np.zeros(channels)
        self.responses = np.zeros((channels, classes))
        self.sample = np.empty((sample, channels), np.float32)

    def add(self, values: Floats, images: Indices, labels: Indices, sampled: Indices, row: int) -> Indices:
        """Adds a batch of values (N, C, places); returns the images that are among the highest of some channel.

        Args:
            sampled: those of the batch whose means are kept, from `row` of the sample on.
        """
        means = values.mean(axis=2, dtype=np.float64)
        if not np.isfinite(means).all():
            image = images[~np.isfinite(means).all(axis=1)][0]
            raise UserError(f"{self.node.name} has values that are not finite for image {image}; it has no references")
        self.sum += means.sum(axis=0)
        self.squares += (means**2).sum(axis=0)
        self.sample[row : row + len(sampled)] = means[sampled]
        places = values.argmax(axis=2)  # (N, C)
        largest = np.take_along_axis(values, places[..., np.newaxis], axis=2)[..., 0]
        for label in np.unique(labels):
            self.responses[:, label] += largest[labels == label].sum(axis=0)
        risen = np.flatnonzero(largest.max(axis=0) > self.largest[:, -1])
        if not len(risen):
            return risen
        candidates = np.concatenate([self.largest[risen], largest[:, risen].T], axis=1)
        order = np.argsort(-candidates, axis=1, kind="stable")[:, : self.largest.shape[1]]
        owners = np.concatenate([self.image[risen], np.broadcast_to(images, (len(risen), len(images)))], axis=1)
        spots = np.concatenate([self.place[risen], places[:, risen].T], axis=1)
        self.largest[risen] = np.take_along_axis(candidates, order, axis=1)
        self.image[risen] = np.take_along_axis(owners, order, axis=1)
        self.place[risen] = np.take_along_axis(spots, order, axis=1)
        return np.unique(self.image[risen])

    def finish(
        self, counts: Indices, references: int, pictures: Indices
    ) -> tuple[npt.NDArray[Any], Floats, dict[str, Any]]:
        """The records of the channels, the principal components of their means, and what the index says of the layer.

        Half of the sample is fitted, and the other half gives the quantiles of the distances.

        Args:
            counts: images of each class.
            pictures: images that are kept, in ascending order.
        """
        found = np.zeros(len(self.sum), channel_type(references, len(counts)))
        found["largest"] = np.where(self.image < 0, 0, self.largest)
        found["picture"] = np.where(self.image < 0, -1, np.searchsorted(pictures, self.image))
        found["place"] = self.place
        images = int(counts.sum())
        mean = self.sum / images
        std = np.sqrt(np.maximum(self.squares / images - mean**2, 0))
        found["mean"], found["std"] = mean, std
        found["low"], found["high"] = np.quantile(self.sample, (0.005, 0.995), axis=0)
        found["response"] = self.responses.sum(axis=1) / images
        by_class = self.responses / np.maximum(counts, 1)
        by_class[:, counts == 0] = -np.inf
        best = np.argsort(-by_class, axis=1, kind="stable")[:, :CLASSES]
        responses = np.take_along_axis(by_class, best, axis=1)
        found["classes"] = np.where(np.isfinite(responses), best, -1)
        found["responses"] = np.where(np.isfinite(responses), responses, 0)
        normal = Distribution.fit(self.sample[::2], mean, std)
        apart = normal.distances(self.sample[1::2])
        layer = {
            "variances": normal.variances.tolist(),
            "rest": normal.rest,
            "distances": np.quantile(apart, np.linspace(0, 1, QUANTILES)).tolist(),
        }
        return found, normal.components.astype(np.float32).ravel(), layer


class ReferenceBuilder:
    """Collects, over the images of a data set, what excites each channel most and what is normal.

    A context manager, which removes the pictures that it keeps on disk meanwhile.

    Args:
        model: the artifact.
        images: how many will be added.
        references: how many images are kept for each channel.

    Raises:
        NotInspectable: the artifact has no ONNX file.
    """

    def __init__(self, model: Predictor, images: int, *, references: int = 9) -> None:
        self._model, self._references = model, references
        self._extractor = extractor_of(model)
        manifest = model.manifest
        self._nodes = [node for node in manifest.nodes if node.value]
        channels = [by_channel(np.empty((1, *node.shape), bool), node, manifest.input).shape[1] for node in self._nodes]
        wanted = min(images, _SAMPLE, max(100, _SAMPLE_VALUES // sum(channels)))
        self._sampled = np.unique(np.linspace(0, images - 1, wanted).astype(np.int64))
        classes = len(manifest.classes)
        self._layers = [
            _LayerSums(node, count, references, classes, len(self._sampled))
            for node, count in zip(self._nodes, channels, strict=True)
        ]
        self._labels: list[Indices] = []
        self._predicted: list[Indices] = []
        self._pixels = tempfile.TemporaryFile()
        self._stored: dict[int, tuple[int, int]] = {}  # by image: where it is in that file, and its size
        self._added = self._in_sample = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.close()

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self._layers)

    @property
    def channels(self) -> int:
        """The number of channels of all layers."""
        return sum(len(layer.sum) for layer in self._layers)

    @property
    def batch(self) -> int:
        """How many images should be added at once."""
        values = sum(prod(node.shape) for node in self._nodes)
        return max(1, min(_MOST_IMAGES, _RUN_VALUES // values))

    def add(self, images: Pixels, labels: Indices) -> None:
        """Runs images, uint8 (N, H, W, C) at the network's size, of the classes `labels`.

        Raises:
            UserError: a value is not finite.
        """
        probabilities, values = self._extractor.run(images, [node.value for node in self._nodes])
        numbers = self._added + np.arange(len(images))
        sampled = np.flatnonzero(np.isin(numbers, self._sampled))
        kept: set[int] = set()
        for layer, value in zip(self._layers, values, strict=True):
            flat = by_channel(np.asarray(value, np.float32), layer.node, self._model.manifest.input)
            kept.update(layer.add(flat, numbers, labels, sampled, self._in_sample).tolist())
        for number in sorted(one for one in kept if one >= self._added):
            encoded = _encode(images[number - self._added])
            self._stored[number] = self._pixels.tell(), len(encoded)
            self._pixels.write(encoded)
        self._labels.append(labels)
        self._predicted.append(probabilities.argmax(axis=1))
        self._added += len(images)
        self._in_sample += len(sampled)

    def write(self, source: Source) -> Path:
        """Writes the index into the artifact, in place of an older one.

        Raises:
            UnwritableError: the artifact's folder cannot be written.
        """
        place = self._model.directory / FOLDER
        staging = place.with_name(f".{FOLDER}-{os.getpid()}")
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            self._write(staging, source)
            _replace(staging, place)
        except OSError as error:
            raise UnwritableError(f"{place} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return place

    def _write(self, folder: Path, source: Source) -> None:
        labels, predicted = np.concatenate(self._labels), np.concatenate(self._predicted)
        used = np.unique(np.concatenate([layer.image.ravel() for layer in self._layers]))
        used = used[used >= 0]
        pictures = np.zeros(len(used), picture_type(source.names))
        with (folder / PIXELS_FILE).open("wb") as file:
            for row, image in enumerate(used.tolist()):
                start = file.tell()
                where, size = self._stored[image]
                self._pixels.seek(where)
                file.write(self._pixels.read(size))
                name = source.names[image] if source.names else ""
                pictures[row] = (start, file.tell(), image, labels[image], predicted[image], name)
        counts = np.bincount(labels, minlength=len(self._model.manifest.classes))
        records, components, layers, first = [], [], [], 0
        for layer in self._layers:
            found, basis, about_layer = layer.finish(counts, self._references, used)
            records.append(found)
            components.append(basis)
            layers.append({"name": layer.node.name, "first": first, "channels": len(found), **about_layer})
            first += len(found)
        np.save(folder / CHANNELS_FILE, np.concatenate(records))
        np.save(folder / COMPONENTS_FILE, np.concatenate(components))
        np.save(folder / PICTURES_FILE, pictures)
        about = {
            "schema": SCHEMA,
            "artifact": self._model.label,
            "onnx_sha256": self._model.manifest.files[ONNX_FILE].sha256,
            "dataset": {"name": source.name, "split": source.split, "sha256": source.sha256},
            "images": len(labels),
            "accuracy": float((labels == predicted).mean()),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: installed_version(name) for name in ("convscope", "numpy", "onnxruntime")},
            "layers": layers,
        }
        (folder / INDEX_FILE).write_text(json.dumps(about, indent=1) + "\n")


def _encode(image: Pixels) -> bytes:
    picture, buffer = to_pil(image), io.BytesIO()
    lossless = picture.width * picture.height <= _LOSSLESS_PIXELS
    picture.convert("RGB").save(buffer, "WEBP", lossless=lossless, quality=90, method=2)
    return buffer.getvalue()


def _replace(staging: Path, place: Path) -> None:
    """Puts a folder into the place of another; a server that has the old files open keeps them."""
    old = place.with_name(f".{FOLDER}-old-{os.getpid()}")
    with suppress(FileNotFoundError):
        place.rename(old)
    staging.rename(place)
    shutil.rmtree(old, ignore_errors=True)
