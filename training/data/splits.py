"""The splits of a data set at the network's input size, in memory or streamed, and the input specification for them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.errors import UserError
from models.images.input_spec import InputSpec
from training.data.in_memory import load_into_memory
from training.data.options import SOURCE_DEFAULTS, SourceOptions
from training.data.raw import LabeledImages, RawDataset
from training.data.streaming import CHUNK, Dataset, StreamingDataset, sequential_batches


@dataclass(frozen=True)
class Splits:
    """The training split, the validation split, and the test split, which is evaluated once at the end."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @property
    def streamed(self) -> bool:
        """True if images are decoded on demand."""
        return isinstance(self.train, StreamingDataset)


def prepare_splits(
    raw: RawDataset,
    *,
    size: tuple[int, int],
    fraction: float,
    seed: int,
    options: SourceOptions = SOURCE_DEFAULTS,
    like: InputSpec | None = None,
) -> tuple[InputSpec, Splits]:
    """All splits of a data set, and the input specification with the training images' mean and deviation.

    Args:
        size: (height, width) for the network.
        fraction: share of the training images for the validation split, if the data set has none.
        seed: seed of that split.
        options: all splits are streamed if their files together exceed its memory limit.
        like: the specification of the initial weights; kept if its mode and size are the same.

    Raises:
        ValueError: a damaged file, which is named.
    """
    spec = _plain_spec(raw, size)
    known = like is not None and (like.mode, like.height, like.width) == (spec.mode, *size)
    if like is not None and known:
        spec = replace(like, background=spec.background)
    together = sum(raw.counts.values())

    def source(split: LabeledImages) -> Dataset:
        return open_dataset(split, spec, options, together=together)

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
    split: LabeledImages, spec: InputSpec, options: SourceOptions = SOURCE_DEFAULTS, *, together: int | None = None
) -> Dataset:
    """Opens a split at the size and mode of `spec`: in memory, or streamed above the memory limit.

    Args:
        together: images that count towards the limit; by default those of this split.

    Raises:
        ValueError: a damaged file, which is named, unless the split is streamed.
    """
    count = len(split) if together is None else together
    if isinstance(split.images, list) and count * int(np.prod(spec.shape)) > options.memory_limit_mb * 2**20:
        labels = torch.from_numpy(np.array(split.labels))
        limit = options.image_limit_pixels
        return StreamingDataset(split.images, labels, spec, options.worker_count, limit_pixels=limit)
    return load_into_memory(split, spec, limit_pixels=options.image_limit_pixels)


def split_validation(images: Dataset, *, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits randomly into training images, with some of every class, and the share `fraction` for validation.

    Raises:
        ValueError: one of the parts would be empty.
    """
    count = max(1, round(fraction * len(images)))
    if count >= len(images):
        raise UserError(f"a validation split of {count} leaves nothing of {len(images)} training images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = order[:count], order[count:]
    for label in set(images.labels.tolist()) - set(images.labels[kept].tolist()):
        back = held[images.labels[held] == label][:1]
        kept, held = torch.cat([kept, back]), held[held != back]
    if not len(held):
        raise UserError(f"{len(images)} training images of as many classes leave none to validate on")
    return images.take(kept.sort().values), images.take(held.sort().values)


def channel_statistics(images: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images, scaled to [0, 1].

    Computed from histograms, which needs no float copy and cannot overflow. A constant channel gets the deviation of
    one grey level.
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
    """The specification without mean and deviation. Images of another aspect ratio are cropped, not stretched."""
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
