"""A reference index, opened: the crops that excite a channel most, and how normal an image is."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.artifact.manifest import ONNX_FILE, Manifest
from export.predictor import Predictor
from models.files import NPZ_ERRORS
from models.graph.node import Node
from models.graph.receptive_field import Box
from models.images.decode import Floats, Pixels
from service.errors import NoReferences, UnknownLayer, UnknownUnit
from service.inspection.layers import by_channel, grid_layer
from service.inspection.references.files import (
    CHANNELS_FILE,
    COMPONENTS_FILE,
    FOLDER,
    INDEX_FILE,
    PICTURES_FILE,
    PIXELS_FILE,
    SCHEMA,
    Records,
)
from service.inspection.references.normal import Distribution, Normality, floored, normality
from service.inspection.tiles import draw_crops, encode_png
from service.inspection.units import extractor_of

_BUILD = "convscope index ARTIFACT --data DATASET makes one"


@dataclass(frozen=True)
class Reference:
    """An image that excites a channel, and where.

    Attributes:
        largest: the channel's largest value in the image.
        position: (row, column) of that value; None where the layer has no grid.
        image: index of the image in the split.
        name: of its file; empty if the data set has none.
        label, predicted: its class, and the one with the highest probability.
        box: pixels of the network's input that can influence the value, padding included; None where it is the whole
            input or unknown.
        crop: uint8 (h, w, 3), the part of the image in the box.
        picture: uint8 (height, width, 3), the whole image as the network takes it.
    """

    largest: float
    position: tuple[int, int] | None
    image: int
    name: str
    label: int
    predicted: int
    box: Box | None
    crop: Pixels
    picture: Pixels


@dataclass(frozen=True)
class ChannelReferences:
    """What excites one channel.

    Attributes:
        layer, channel: its place in the network.
        references: the images with its largest values, the largest first.
        mean, std, low, high: of the channel's mean over its places, over the indexed images: mean, standard deviation,
            and the quantiles 0.5 % and 99.5 %.
        response: the channel's largest value, mean over the indexed images.
        classes: those with the largest mean response: index, name and response.
    """

    layer: str
    channel: int
    references: tuple[Reference, ...]
    mean: float
    std: float
    low: float
    high: float
    response: float
    classes: tuple[tuple[int, str, float], ...]

    def _repr_png_(self) -> bytes:
        """The crops side by side, for notebooks."""
        return encode_png(draw_crops([(f"{one.largest:.3g}", one.crop) for one in self.references]))


class ReferenceIndex:
    """The index of one artifact.

    Attributes:
        dataset, split, images: the data that were indexed, and their number.
        sha256: of its description, which differs for every index.
    """

    def __init__(self, manifest: Manifest, folder: Path, about: dict[str, Any], sha256: str) -> None:
        self._manifest = manifest
        self._folder = folder
        # Opened together, so that they stay together when `convscope index` writes others.
        self._channels: Records = np.load(folder / CHANNELS_FILE, mmap_mode="r", allow_pickle=False)
        self._pictures: Records = np.load(folder / PICTURES_FILE, mmap_mode="r", allow_pickle=False)
        self._pixels = np.memmap(folder / PIXELS_FILE, np.uint8, mode="r")
        self._components: Floats = np.load(folder / COMPONENTS_FILE, mmap_mode="r", allow_pickle=False)
        self._layers: dict[str, dict[str, Any]] = {}
        place = 0
        for row in about["layers"]:
            self._layers[row["name"]] = {**row, "components": place}
            place += len(row["variances"]) * row["channels"]
        self.dataset: str = about["dataset"]["name"]
        self.split: str = about["dataset"]["split"]
        self.images: int = about["images"]
        self.sha256 = sha256
        self._nodes = {node.name: node for node in manifest.nodes}
        if sum(row["channels"] for row in about["layers"]) != len(self._channels) or place != len(self._components):
            raise ValueError(f"{INDEX_FILE} belongs to other files")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the indexed layers, in the network's order."""
        return tuple(self._layers)

    def channel(self, layer: str, channel: int) -> ChannelReferences:
        """What excites a channel most.

        Raises:
            UnknownLayer, UnknownUnit: no such layer or channel.
            NoReferences: a file of the index is damaged.
        """
        if layer not in self._layers:
            raise UnknownLayer(f"{self._manifest.name} has no layer {layer[:60]!r} with references")
        row = self._layers[layer]
        if not 0 <= channel < row["channels"]:
            raise UnknownUnit(f"{layer} has no channel {channel}; its channels are 0 to {row['channels'] - 1}")
        record = self._channels[row["first"] + channel]
        try:
            found = tuple(
                self._reference(self._nodes[layer], float(largest), int(picture), int(place))
                for largest, picture, place in zip(record["largest"], record["picture"], record["place"], strict=True)
                if picture >= 0
            )
        except (OSError, IndexError, KeyError, ValueError) as error:
            raise NoReferences(f"{self._folder / PIXELS_FILE} is damaged ({error}); {_BUILD}") from None
        return ChannelReferences(
            layer,
            channel,
            found,
            mean=float(record["mean"]),
            std=float(record["std"]),
            low=float(record["low"]),
            high=float(record["high"]),
            response=float(record["response"]),
            classes=tuple(
                (int(index), self._manifest.classes[index], float(response))
                for index, response in zip(record["classes"], record["responses"], strict=True)
                if index >= 0
            ),
        )

    def normality(self, values: Sequence[tuple[Node, Floats]]) -> list[Normality | None]:
        """How far values of layers lie from those of the indexed images; None for a layer that was not indexed.

        Args:
            values: nodes and their values for one image.
        """
        return [self._normality(node, value) for node, value in values]

    def _normality(self, node: Node, value: Floats) -> Normality | None:
        row = self._layers.get(node.name)
        if row is None:
            return None
        means = by_channel(value[np.newaxis], node, self._manifest.input)[0].mean(axis=1, dtype=np.float64)
        channels, variances, place = row["channels"], np.asarray(row["variances"]), row["components"]
        own = self._channels[row["first"] : row["first"] + channels]
        components = self._components[place : place + len(variances) * channels].reshape(-1, channels)
        mean, std = own["mean"].astype(np.float64), floored(own["std"].astype(np.float64))
        normal = Distribution(mean, std, components, variances, row["rest"])
        return normality(node.name, means, normal, np.asarray(row["distances"]))

    def _reference(self, node: Node, largest: float, picture: int, place: int) -> Reference:
        row = self._pictures[picture]
        content = self._pixels[int(row["start"]) : int(row["stop"])].tobytes()
        pixels = np.asarray(Image.open(io.BytesIO(content), formats=("WEBP",)).convert("RGB"))
        layer = grid_layer(node, self._manifest.input)
        position = layer.position(place) if layer else None
        box = node.box(*position) if position else None
        seen = box.clipped(*pixels.shape[:2]) if box else None
        crop = pixels[seen.top : seen.bottom, seen.left : seen.right] if seen else pixels
        return Reference(
            largest=largest,
            position=position,
            image=int(row["image"]),
            name=str(row["name"]),
            label=int(row["label"]),
            predicted=int(row["predicted"]),
            box=box,
            crop=crop if crop.size else pixels,
            picture=pixels,
        )


def open_index(model: Predictor) -> ReferenceIndex:
    """Opens the index of an artifact; one that has been opened before is kept in memory.

    Raises:
        NoReferences: it has none, or one that is damaged or was made for another network.
    """
    folder = model.directory / FOLDER
    try:
        made = (folder / INDEX_FILE).stat().st_mtime_ns
    except OSError:
        raise NoReferences(f"{model.label} has no reference images; {_BUILD}") from None
    return _open(_Key(model.manifest), folder, made)


def find_index(model: Predictor) -> ReferenceIndex | None:
    """The index of an artifact; None if it has no usable one."""
    try:
        return open_index(model)
    except NoReferences:
        return None


def image_normality(model: Predictor, image: Pixels) -> list[Normality]:
    """How far an image lies outside of what is normal, for every indexed layer; empty without a usable index.

    Args:
        image: uint8 (H, W, C) as the network takes it.
    """
    index = find_index(model)
    if index is None:
        return []
    nodes = [node for node in model.manifest.nodes if node.name in index.layers]
    _, values = extractor_of(model).run(image[np.newaxis], [node.value for node in nodes])
    found = index.normality([(node, value[0]) for node, value in zip(nodes, values, strict=True)])
    return [one for one in found if one is not None]


def normality_text(found: Sequence[Normality], index: ReferenceIndex) -> str:
    """One line: the layers with unusual values, the most unusual first."""
    beside = f"the {index.images:,} {index.split} images of {index.dataset}"
    unusual = sorted((one for one in found if one.unusual), key=lambda one: -one.distance / one.limit)
    if not unusual:
        return f"normal beside {beside} in all of {len(found)} layers"
    worst = ", ".join(f"{one.layer} ({one.distance:.1f}, limit {one.limit:.1f})" for one in unusual[:3])
    return f"unusual beside {beside} in {len(unusual)} of {len(found)} layers: {worst}"


class _Key:
    """A manifest as a key of the cache; an index belongs to one `model.onnx`."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        entry = manifest.files.get(ONNX_FILE)
        self.sha256 = entry.sha256 if entry else ""

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.sha256 == other.sha256


@lru_cache(maxsize=16)
def _open(key: _Key, folder: Path, _made: int) -> ReferenceIndex:
    try:
        content = (folder / INDEX_FILE).read_bytes()
        about, digest = json.loads(content), hashlib.sha256(content).hexdigest()
        schema, sha256, artifact = about["schema"], about["onnx_sha256"], about["artifact"]
        fits = (schema, sha256) == (SCHEMA, key.sha256)
        index = ReferenceIndex(key.manifest, folder, about, digest) if fits else None
    except NPZ_ERRORS as error:
        raise NoReferences(f"{folder} is damaged ({error}); {_BUILD}") from None
    if index is None:
        reason = f"has the schema {schema!r}" if schema != SCHEMA else f"was made for another network, {artifact}"
        raise NoReferences(f"{folder} {reason}; {_BUILD}")
    return index
