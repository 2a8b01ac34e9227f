"""From raw images to tensors: what Pillow and numpy give, and nothing of one split in another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from models.images.decode import preprocess_image, to_pil
from models.images.input_spec import InputSpec
from training.data.datasets import load_dataset
from training.data.in_memory import InMemoryDataset, load_into_memory
from training.data.raw import LabeledImages
from training.data.splits import channel_statistics, prepare_splits, split_validation

RNG = np.random.default_rng(0)


def make_spec(mode: str, height: int, width: int) -> InputSpec:
    channels = 1 if mode == "L" else 3
    return InputSpec(
        mode=mode,  # type: ignore[arg-type]
        height=height,
        width=width,
        resize=(height, width),
        background=(0,) * channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


@pytest.mark.parametrize(("mode", "shape"), [("L", (600, 6, 5)), ("RGB", (300, 6, 5, 3))])
def test_the_short_cut_is_identical_to_fit_image(mode: str, shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    images.setflags(write=False)
    spec = make_spec(mode, 6, 5)
    prepared = load_into_memory(LabeledImages(images, np.zeros(len(images), dtype=np.int64)), spec)
    assert np.array_equal(
        prepared.images.numpy(), np.stack([preprocess_image(to_pil(image), spec) for image in images])
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_resizing_is_pillows(mode: str) -> None:
    images = RNG.integers(0, 256, (300, 8, 8), dtype=np.uint8)
    prepared = load_into_memory(LabeledImages(images, np.arange(300)), make_spec(mode, 12, 10))
    for image, ours in zip(images[::50], prepared.images[::50].numpy(), strict=True):
        reference = tv.resize(Image.fromarray(image).convert(mode), [12, 10])  # a PIL image in, a PIL image out
        assert np.array_equal(ours, np.asarray(reference).reshape(ours.shape))
    assert prepared.labels.tolist() == list(range(300))


def test_files_keep_their_order_and_are_decoded(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.new("RGB", (4, 4), (i, 2 * i, 3 * i)).save(path)
    prepared = load_into_memory(LabeledImages(paths, np.arange(20)), make_spec("RGB", 2, 2))
    assert [image[0, 0].tolist() for image in prepared.images] == [[i, 2 * i, 3 * i] for i in range(20)]


def test_mean_and_deviation_are_numpys() -> None:
    images = RNG.integers(0, 256, (50, 7, 6, 3), dtype=np.uint8)
    mean, std = channel_statistics(InMemoryDataset(torch.from_numpy(images), torch.zeros(50)))
    assert np.allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_has_a_deviation_above_zero() -> None:
    assert channel_statistics(InMemoryDataset(torch.zeros(2, 4, 4, 1, dtype=torch.uint8), torch.zeros(2))) == (
        (0.0,),
        (1 / 255,),
    )


def test_validation_images_are_not_trained_on() -> None:
    whole = InMemoryDataset(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), torch.arange(100) % 10)
    train, validation = split_validation(whole, fraction=0.2, seed=3)
    assert (len(train), len(validation)) == (80, 20)
    assert sorted([*train.images.flatten().tolist(), *validation.images.flatten().tolist()]) == list(range(100))
    assert torch.equal(split_validation(whole, fraction=0.2, seed=3)[1].images, validation.images)
    assert not torch.equal(split_validation(whole, fraction=0.2, seed=4)[1].images, validation.images)


def test_no_class_loses_its_last_image_to_validation() -> None:
    few = InMemoryDataset(torch.zeros(13, 1, 1, 1, dtype=torch.uint8), torch.tensor([0] * 10 + [1, 2, 2]))
    for seed in range(20):
        train, validation = split_validation(few, fraction=0.5, seed=seed)
        assert set(train.labels.tolist()) == {0, 1, 2} and len(validation) >= 3
        assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == few.labels.tolist()
    with pytest.raises(ValueError, match="3 training images of as many classes leave none to validate on"):
        split_validation(few.take(torch.tensor([0, 10, 11])), fraction=0.5, seed=0)


def test_a_validation_split_must_leave_something() -> None:
    images = InMemoryDataset(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.arange(2))
    with pytest.raises(ValueError, match="split of 2 leaves nothing of 2 training images"):
        split_validation(images, fraction=0.9, seed=0)


def test_the_statistics_are_those_of_what_is_trained_on() -> None:
    raw = load_dataset("digits")
    spec, data = prepare_splits(raw, size=(8, 8), fraction=0.1, seed=0)
    pixels = data.train.images.numpy() / 255
    assert spec.mean == pytest.approx((pixels.mean(),)) and spec.std == pytest.approx((pixels.std(),))
    assert len(data.train) + len(data.validation) == len(raw.train)
    assert np.array_equal(data.test.images.numpy()[..., 0], raw.test.images)


def test_a_validation_split_that_is_given_is_used() -> None:
    raw = load_dataset("digits")
    _, data = prepare_splits(replace(raw, validation=raw.test), size=(8, 8), fraction=0.1, seed=0)
    assert len(data.train) == len(raw.train) and torch.equal(data.validation.labels, data.test.labels)


@pytest.mark.parametrize(
    ("natural", "resize", "crop"),
    [((14, 14), (28, 28), None), ((20, 30), 28, (28, 28)), (None, 28, (28, 28))],
)
def test_other_proportions_are_cut_and_not_stretched(
    natural: tuple[int, int] | None, resize: object, crop: tuple[int, int] | None
) -> None:
    shape = natural or (28, 28)
    images = RNG.integers(0, 256, (10, *shape), dtype=np.uint8)
    split = LabeledImages(images, np.arange(10) % 2)
    raw = replace(load_dataset("digits"), train=split, test=split, size=natural)
    spec, data = prepare_splits(raw, size=(28, 28), fraction=0.2, seed=0)
    assert (spec.resize, spec.crop) == (resize, crop)
    assert data.train.images.shape == (8, 28, 28, 1)
