"""The splits of a data set at the network's input size, in memory or streamed, and the input specification for them."""

import os
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.images.decode import InputSpec
from training.data.in_memory import prepare
from training.data.raw import LabeledImages, RawDataset
from training.data.streaming import CHUNK, Source, StreamingDataset, sequential_batches

MEMORY_LIMIT_MB = 4096
MOST_WORKERS = 8


@dataclass(frozen=True)
class Splits:
    """What is learnt from, what is watched and fits the temperature, and what is looked at once at the end."""

    train: Source
    validation: Source
    test: Source

    @property
    def streamed(self) -> bool:
        """Whether images are decoded when they are needed."""
        return isinstance(self.train, StreamingDataset)


def prepare_splits(
    raw: RawDataset,
    *,
    size: tuple[int, int],
    fraction: float,
    seed: int,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
    like: InputSpec | None = None,
) -> tuple[InputSpec, Splits]:
    """All splits of a data set, and the input specification with the training images' mean and deviation.

    Args:
        raw: the data set.
        size: (height, width) for the network.
        fraction: of the training images that become the validation split, if the data set brings none.
        seed: of the draw of these.
        memory_limit_mb: files that would be larger than so many megabytes, all splits together, are streamed.
        workers: processes that decode what is streamed; by default one a processor, up to 8.
        like: what the initial weights were trained on; taken as it is if its mode and size are the same.

    Raises:
        ValueError: a file that is no image, or damaged; it is named.
    """
    spec = _plain_spec(raw, size)
    known = like is not None and (like.mode, like.height, like.width) == (spec.mode, *size)
    if like is not None and known:
        spec = replace(like, background=spec.background)
    together = sum(raw.counts.values())

    def source(split: LabeledImages) -> Source:
        return open_dataset(split, spec, memory_limit_mb=memory_limit_mb, workers=workers, together=together)

    train = source(raw.train)
    if raw.validation is not None:
        validation = source(raw.validation)
    else:
        train, validation = split_validation(train, fraction=fraction, seed=seed)
    if not known:
        mean, std = channel_statistics(train)
        spec = replace(spec, mean=mean, std=std)
    return spec, Splits(train, validation, source(raw.test))


def open_dataset(
    split: LabeledImages,
    spec: InputSpec,
    *,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
    together: int | None = None,
) -> Source:
    """A split as `spec` says: in memory, or streamed.

    Args:
        split: the images.
        spec: what they are brought to.
        memory_limit_mb: files that would be larger than so many megabytes are streamed.
        workers: processes that decode what is streamed; by default one a processor, up to 8.
        together: how many images would be in memory; by default those of this split.

    Raises:
        ValueError: a file that is no image, or damaged, unless it is streamed; it is named.
    """
    count = len(split) if together is None else together
    if isinstance(split.images, list) and count * int(np.prod(spec.shape)) > memory_limit_mb * 2**20:
        workers = min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers
        return StreamingDataset(split.images, torch.from_numpy(np.array(split.labels)), spec, workers)
    return prepare(split, spec)


def split_validation(images: Source, *, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits at random into what stays for training and the share `fraction`, at least one image, for validation.

    Of every class something stays for training.

    Raises:
        ValueError: nothing would stay, or nothing be held out.
    """
    count = max(1, round(fraction * len(images)))
    if count >= len(images):
        raise ValueError(f"a validation split of {count} leaves nothing of {len(images)} training images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = order[:count], order[count:]
    for label in set(images.labels.tolist()) - set(images.labels[kept].tolist()):
        back = held[images.labels[held] == label][:1]
        kept, held = torch.cat([kept, back]), held[held != back]
    if not len(held):
        raise ValueError(f"{len(images)} training images of as many classes leave none to validate on")
    return images.take(kept.sort().values), images.take(held.sort().values)


def channel_statistics(images: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images, scaled to [0, 1].

    From histograms, so that neither a float copy is made nor a sum overflows. A channel that is constant gets the
    deviation of one grey level.
    """
    counts: Tensor | int = 0
    for batch in images.batches(sequential_batches(len(images), CHUNK)):
        channels = batch.images.flatten(0, 2).unbind(-1)
        counts = counts + torch.stack([torch.bincount(channel, minlength=256) for channel in channels])  # (C, 256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in torch.as_tensor(counts).double():
        share = channel / channel.sum()  # (256,)
        mean.append(float(share @ levels))
        std.append(max(float((share @ (levels - mean[-1]) ** 2).sqrt()), 1 / 255))
    return tuple(mean), tuple(std)


def _plain_spec(raw: RawDataset, size: tuple[int, int]) -> InputSpec:
    """The specification less its mean and deviation. Images of other proportions are cut, not stretched."""
    channels = 1 if raw.mode == "L" else 3
    stretch = raw.size is not None and raw.size[0] * size[1] == raw.size[1] * size[0]
    return InputSpec(
        mode=raw.mode,
        height=size[0],
        width=size[1],
        resize=size if stretch else max(size),
        crop=None if stretch else size,
        background=(raw.background,) * channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
