"""A data set in memory at the network's input size, as uint8 tensors."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.errors import UserError
from models.images.decode import Pixels, decode_image, preprocess_image, to_pil
from models.images.errors import ImageError
from models.images.header import DEFAULT_LIMIT_PIXELS
from models.images.input_spec import InputSpec
from training.data.options import reason_of
from training.data.raw import LabeledImages

NAMED = 20  # damaged files in one message
CHUNK = 256  # images per thread task: one task per image would cost more than a small resize


@dataclass(frozen=True)
class InMemoryDataset:
    """uint8 images (N, H, W, C) and int64 labels (N,) on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "InMemoryDataset":
        """The images at `index`."""
        return InMemoryDataset(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "InMemoryDataset":
        """The same on `device`."""
        return InMemoryDataset(self.images.to(device), self.labels.to(device))

    def in_memory(self) -> "InMemoryDataset":
        """The same on the CPU."""
        return self.to(torch.device("cpu"))

    def batches(self, indices: Sequence[Tensor]) -> Iterator["InMemoryDataset"]:
        """The images at each of `indices`."""
        for index in indices:
            yield self.take(index.to(self.images.device))


def load_into_memory(
    split: LabeledImages, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS
) -> InMemoryDataset:
    """Resizes and converts every image to `spec` and stacks them; ValueError names a damaged or too large file."""
    labels = torch.from_numpy(np.ascontiguousarray(split.labels))
    if isinstance(split.images, np.ndarray) and _fits(split.images, spec):
        # The result of `preprocess_image` for each; copied, as torch warns about read-only arrays.
        return InMemoryDataset(torch.from_numpy(split.images.reshape(-1, *spec.shape).copy()), labels)
    images = torch.empty((len(split), *spec.shape), dtype=torch.uint8)
    out, faults = images.numpy(), dict[int, UserError]()

    def fill(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(split))):
            try:
                out[i] = load_pixels(split.images[i], spec, limit_pixels=limit_pixels)
            except UserError as error:
                faults[i] = error

    with ThreadPoolExecutor() as pool:  # files are decoded and resized without the GIL
        for _ in pool.map(fill, range(0, len(split), CHUNK)):
            pass
    if faults:
        raise _all_of([faults[i] for i in sorted(faults)])
    return InMemoryDataset(images, labels)


def _all_of(faults: list[UserError]) -> UserError:
    if len(faults) == 1:
        return faults[0]
    named = "".join(f"\n  {fault}" for fault in faults[:NAMED])
    more = f"\n  and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return UserError(f"{len(faults)} images cannot be used; --skip-bad leaves them out:{named}{more}")


def _fits(images: Pixels, spec: InputSpec) -> bool:
    shape = (spec.height, spec.width) if spec.mode == "L" else spec.shape
    return images.shape[1:] == shape


def load_pixels(image: Pixels | Path, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Pixels:
    """An image or image file at the size and mode of `spec`, uint8 (H, W, C); ValueError names a damaged file."""
    if not isinstance(image, Path):
        return preprocess_image(to_pil(image), spec)
    try:
        return decode_image(image.read_bytes(), spec, limit_pixels=limit_pixels)
    except ImageError as error:
        raise UserError(f"{image}: {reason_of(error)}") from None
