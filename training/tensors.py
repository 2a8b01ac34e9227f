"""A data set in memory at the network's input size, as uint8 tensors."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.inputs import ImageError, InputSpec, Pixels, decode_image, fit_image, to_image
from training.raw import RawDataset, RawSplit

CHUNK = 256  # images a thread takes at a time: a task of its own for each would cost more than a small resize


@dataclass(frozen=True)
class Images:
    """uint8 images (N, H, W, C) and int64 labels (N,) on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Images":
        """The images at `index`."""
        return Images(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Images":
        """The same on `device`."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """What is learnt from, what decides which epoch is kept, and what is looked at once at the end."""

    train: Images
    validation: Images
    test: Images


def prepare(split: RawSplit, spec: InputSpec) -> Images:
    """Brings every image to the size and mode of `spec` and stacks them.

    Raises:
        ValueError: a file that is no image, or damaged; it is named.
    """
    labels = torch.from_numpy(np.ascontiguousarray(split.labels))
    if isinstance(split.images, np.ndarray) and _fits(split.images, spec):
        # What `fit_image` would return for each; copied, as some arrays are read-only, which torch warns of.
        return Images(torch.from_numpy(split.images.reshape(-1, *spec.shape).copy()), labels)
    images = torch.empty((len(split), *spec.shape), dtype=torch.uint8)
    out = images.numpy()

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(split))):
            out[i] = _pixels(split.images[i], spec)

    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter's lock
        for _ in pool.map(fill, range(0, len(split), CHUNK)):
            pass
    return Images(images, labels)


def prepare_splits(raw: RawDataset, *, size: tuple[int, int], fraction: float, seed: int) -> tuple[InputSpec, Splits]:
    """All splits of a data set in memory, and the input specification with the training images' mean and deviation.

    Args:
        raw: the data set.
        size: (height, width) for the network.
        fraction: of the training images that become the validation split, if the data set brings none.
        seed: of the draw of these.
    """
    spec = _plain_spec(raw, size)
    train = prepare(raw.train, spec)
    if raw.validation is not None:
        validation = prepare(raw.validation, spec)
    else:
        train, validation = hold_out(train, fraction=fraction, seed=seed)
    mean, std = channel_statistics(train.images)
    return replace(spec, mean=mean, std=std), Splits(train, validation, prepare(raw.test, spec))


def hold_out(images: Images, *, fraction: float, seed: int) -> tuple[Images, Images]:
    """Splits at random into what stays for training and the share `fraction`, at least one image, for validation.

    Raises:
        ValueError: nothing would stay.
    """
    count = max(1, round(fraction * len(images)))
    if count >= len(images):
        raise ValueError(f"a validation split of {count} leaves nothing of {len(images)} training images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.take(order[count:].sort().values), images.take(order[:count].sort().values)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 (N, H, W, C) images, scaled to [0, 1].

    From histograms, so that neither a float copy is made nor a sum overflows. A channel that is constant gets the
    deviation of one grey level.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(-1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()  # (256,)
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


def _fits(images: Pixels, spec: InputSpec) -> bool:
    shape = (spec.height, spec.width) if spec.mode == "L" else spec.shape
    return images.shape[1:] == shape


def _pixels(image: Pixels | Path, spec: InputSpec) -> Pixels:
    if not isinstance(image, Path):
        return fit_image(to_image(image), spec)
    try:
        return decode_image(image.read_bytes(), spec)
    except ImageError as error:
        raise ValueError(f"{image}: {error}") from None
