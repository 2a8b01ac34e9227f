"""Augmentation against a loop over images, and what it must never do."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from training.augment.mixing import mix
from training.augment.transforms import augment, resized_crops, rotate

IMAGES = torch.randint(1, 255, (64, 7, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run(images: torch.Tensor, *, background: int = 0, seed: int = 1, **settings: Any) -> torch.Tensor:
    return augment(images, background=background, generator=torch.Generator().manual_seed(seed), **settings)


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


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_reflected_border_is_numpys(shift: int) -> None:
    """Larger shifts than the image has pixels are mirrored again, which numpy does too."""
    for before in (IMAGES[:50], IMAGES[:50, :2, :3], IMAGES[:50, :1, :1]):
        height, width = before.shape[1:3]
        wide = np.pad(before.numpy(), ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
        seen = set()
        for image, after in zip(wide, run(before, shift=shift, reflect=True).numpy(), strict=True):
            moves = [(y, x) for y in range(2 * shift + 1) for x in range(2 * shift + 1)]
            found = [(y, x) for y, x in moves if np.array_equal(after, image[y : y + height, x : x + width])]
            assert found
            seen.update(found)
        assert len(seen) > 2 * shift + 1


def test_a_turn_with_a_reflected_border_uncovers_no_grey() -> None:
    images = torch.full((4, 9, 9, 3), 200, dtype=torch.uint8)
    turned = rotate(images, torch.tensor([10.0, 45.0, -30.0, 90.0]), background=0, reflect=True)
    assert torch.equal(turned, images)
    assert rotate(images, torch.full((4,), 45.0), background=0).min() == 0


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


@pytest.mark.parametrize("background", [0, 200])
@pytest.mark.parametrize("degrees", [0.0, 30.0, -75.0, 90.0])
@pytest.mark.parametrize("shape", [(2, 14, 14, 3), (2, 9, 16, 1)])
def test_a_turn_is_torchvisions(degrees: float, background: int, shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = rotate(images, torch.full((2,), degrees), background=background).permute(0, 3, 1, 2).float()
    x = images.permute(0, 3, 1, 2).float() - background
    wanted = tv.rotate(x, degrees, interpolation=tv.InterpolationMode.BILINEAR) + background
    assert (ours - wanted).abs().max() <= 0.51  # ours is rounded


def test_turns_stay_within_their_limit_and_differ() -> None:
    stripe = torch.zeros(64, 21, 21, 1, dtype=torch.uint8)
    stripe[:, 10] = 255
    turned = run(stripe, rotation=10.0)
    assert (turned[:, 10, 10] > 200).all() and len({image.numpy().tobytes() for image in turned}) > 60
    assert (turned[:, :7] == 0).all() and (turned[:, 14:] == 0).all()  # 10 * tan(10 degrees) < 3


@pytest.mark.parametrize("box", [(0, 0, 14, 20), (3, 5, 7, 10), (2, 9, 12, 8), (9, 14, 5, 6)])
def test_a_crop_is_torchvisions(box: tuple[int, int, int, int]) -> None:
    images = torch.randint(0, 256, (2, 14, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = resized_crops(images, torch.tensor([box, box])).permute(0, 3, 1, 2).float()
    wanted = tv.resized_crop(images.permute(0, 3, 1, 2).float(), *box, size=[14, 20], antialias=False)
    # Half a pixel within the box's edges torchvision repeats its outermost pixels; ours goes on to their neighbours.
    y, x = (-(-length // (2 * side)) for length, side in ((14, box[2]), (20, box[3])))
    assert (ours - wanted)[:, :, y : 14 - y, x : 20 - x].abs().max() <= 0.51


def test_crops_lie_anywhere_in_the_image_and_are_as_large_as_asked() -> None:
    """Of an image whose values are its coordinates: what a crop shows tells where it lies."""
    rows = torch.arange(100).view(1, 100, 1, 1).expand(2000, 100, 120, 1)
    columns = torch.arange(120).view(1, 1, 120, 1).expand(2000, 100, 120, 1)
    seen = run(torch.cat((rows, columns), dim=3).to(torch.uint8), crop=0.25).float()
    top, left, bottom, right = seen[:, 0, 0, 0], seen[:, 0, 0, 1], seen[:, -1, -1, 0], seen[:, -1, -1, 1]
    tall, wide = bottom - top + 1, right - left + 1
    area, aspect = tall * wide / (100 * 120), wide / tall
    assert 0.23 < area.min() < 0.27 and 0.97 < area.max() <= 1 and abs(area.mean() - 0.625) < 0.02
    assert 0.7 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.4
    assert top.min() == left.min() == 0 and bottom.max() == 99 and right.max() == 119
    small = area < 0.4
    assert torch.corrcoef(torch.stack((top, left))[:, small])[0, 1].abs() < 0.1


def test_a_share_of_the_images_loses_one_rectangle() -> None:
    images = torch.full((400, 20, 20, 3), 77, dtype=torch.uint8)
    changed = (run(images, erasing=0.5) != 77).any(-1)  # (N, H, W)
    touched = changed.flatten(1).any(1)
    assert 150 < int(touched.sum()) < 250
    for mask in changed[touched]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        area = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert 0.01 * 400 <= area <= 0.25 * 400
        assert mask.sum() >= 0.9 * area  # noise may equal what it overwrites


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_images_are_their_parts_and_the_share_says_how_much(mixup: float, cutmix: float) -> None:
    labels = torch.arange(64)
    images = (labels * 3).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 10, 12, 1)
    kinds = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        mixed, partners = mix(images, labels, mixup=mixup, cutmix=cutmix, generator=generator)
        kinds.add(mixed.dtype)
        assert sorted(partners.labels.tolist()) == labels.tolist() and 0 <= partners.weight <= 1
        wanted = 3 * labels.float().lerp(partners.labels.float(), partners.weight)
        assert torch.allclose(mixed.float().mean((1, 2, 3)), wanted, atol=1e-3)
    assert kinds == {kind for kind, on in ((torch.float32, mixup), (torch.uint8, cutmix)) if on}
