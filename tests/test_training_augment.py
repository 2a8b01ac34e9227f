"""Augmentation against a loop over images, and what it must never do."""

import numpy as np
import pytest
import torch

from training.augment import augment

IMAGES = torch.randint(1, 255, (64, 7, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run(
    images: torch.Tensor, *, shift: int = 0, flip: bool = False, background: int = 0, seed: int = 1
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(images, shift=shift, flip=flip, background=background, generator=generator)


def shifted(image: np.ndarray, down: int, right: int, background: int) -> np.ndarray:
    """What a loop over pixels makes of one image (H, W, C)."""
    out = np.full_like(image, background)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if 0 <= y - down < image.shape[0] and 0 <= x - right < image.shape[1]:
                out[y, x] = image[y - down, x - right]
    return out


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_every_image_is_a_shift_of_itself(shift: int, background: int) -> None:
    seen = set()
    for before, after in zip(IMAGES.numpy(), run(IMAGES, shift=shift, background=background).numpy(), strict=True):
        moves = [(y, x) for y in range(-shift, shift + 1) for x in range(-shift, shift + 1)]
        found = [move for move in moves if np.array_equal(after, shifted(before, *move, background))]
        assert len(found) == 1
        seen.add(found[0])
    assert {abs(y) for y, _ in seen} == {abs(x) for _, x in seen} == set(range(shift + 1))


def test_half_of_the_images_are_mirrored_and_the_rest_untouched() -> None:
    after = run(IMAGES, flip=True)
    mirrored = (after == IMAGES.flip(2)).flatten(1).all(1)
    assert torch.equal(torch.where(mirrored[:, None, None, None], IMAGES.flip(2), IMAGES), after)
    assert 16 < int(mirrored.sum()) < 48


def test_the_same_seed_gives_the_same_images_and_another_does_not() -> None:
    first = run(IMAGES, shift=2, flip=True)
    assert torch.equal(first, run(IMAGES, shift=2, flip=True))
    assert not torch.equal(first, run(IMAGES, shift=2, flip=True, seed=2))


def test_the_input_and_torchs_global_generator_are_left_alone() -> None:
    images, state = IMAGES.clone(), torch.get_rng_state()
    run(images, shift=2, flip=True)
    assert torch.equal(images, IMAGES) and torch.equal(torch.get_rng_state(), state)


def test_nothing_to_do_returns_the_input() -> None:
    assert run(IMAGES) is IMAGES
