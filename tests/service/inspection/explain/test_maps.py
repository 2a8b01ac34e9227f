import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur as torch_blur

from models.images.decode import preprocess_image
from service.inspection.explain.maps import gaussian_blur, is_empty, positive, resize, to_picture
from service.inspection.explain.overlay import colours, draw_overlay
from tests.conftest import make_spec

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(7, 5), (28, 28), (3, 2), (1, 9)])
def test_resizing_is_torchs(size):
    maps = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)
    wanted = functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize(maps, *size), wanted, atol=1e-6)


def test_blurring_is_torchvisions_but_for_the_edges():
    image = RANDOM.normal(size=(1, 3, 30, 30)).astype(np.float32)
    wanted = torch_blur(torch.from_numpy(image), [13, 13], [2.0, 2.0])
    found = gaussian_blur(image, 2.0, (2, 3))
    np.testing.assert_allclose(found[..., 6:-6, 6:-6], wanted[..., 6:-6, 6:-6], atol=1e-6)
    np.testing.assert_allclose(gaussian_blur(np.ones((1, 4, 4, 1), np.float32), 1.0, (1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "empty"),
    [([[1, 1], [1, 1]], True), ([[0, 0], [0, 0]], True), ([[-3, -1], [-2, -9]], True), ([[-3, 0], [0, -9]], True),
     ([[-3, 0.1], [0, 0]], False), ([[5, 5.00001], [5, 5]], True), ([[5, 6], [5, 5]], False)],
)  # fmt: skip
def test_a_map_is_empty_if_it_is_constant_or_nowhere_positive(values, empty):
    values = np.array(values, np.float32)
    assert is_empty(values) == empty
    strengths = positive(values)
    assert np.isfinite(strengths).all()
    assert strengths.max() == (0 if empty else 1)
    assert strengths.min() >= 0


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (40, 72)),
        ({}, (8, 8)),
        ({"resize": 32, "crop": (28, 28)}, (64, 40)),
        ({"resize": 32, "crop": (28, 28)}, (17, 50)),
        ({"resize": (36, 28), "crop": (28, 28)}, (100, 100)),
    ],
)
def test_the_map_in_the_picture_lies_where_the_network_saw_it(changes, size):
    """A smooth picture, decoded and brought back, is the picture itself wherever the network sees it."""
    spec = make_spec(28, 1, **changes)
    rows, columns = np.linspace(20, 120, size[0])[:, None], np.linspace(0, 130, size[1])
    picture = (rows + columns).round().astype(np.uint8)
    values = preprocess_image(Image.fromarray(picture), spec)[..., 0].astype(np.float32)
    found, seen = to_picture(values, spec, size)
    assert found.shape == seen.shape == size
    assert not found[~seen].any()
    if spec.crop is None:
        assert seen.all()
    else:
        assert seen.any() and not seen.all()
    inner = seen & np.roll(seen, (6, 6), (0, 1)) & np.roll(seen, (-6, -6), (0, 1))
    assert np.abs(found - picture)[inner].max() < 9


def test_an_empty_map_leaves_the_picture_as_it_is():
    for channels in (1, 3):
        picture = RANDOM.integers(0, 256, (6, 7, channels)).astype(np.uint8)
        drawn = np.asarray(draw_overlay(picture, np.zeros((6, 7), np.float32)))
        np.testing.assert_array_equal(drawn, np.broadcast_to(picture, (6, 7, 3)))


def test_colours_are_viridis():
    from matplotlib import colormaps

    numbers = np.linspace(0, 1, 100, dtype=np.float32)
    wanted = colormaps["viridis"](numbers)[:, :3] * 255
    assert np.abs(colours(numbers) - wanted).max() < 5
