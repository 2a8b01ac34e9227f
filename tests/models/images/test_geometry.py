import numpy as np
import pytest
from PIL import Image, ImageOps

from models.images.decode import preprocess_image
from models.images.geometry import oriented_size, to_picture
from tests.conftest import make_spec

SPECS = {
    "stretched": make_spec(24, resize=(24, 24), interpolation="nearest"),
    "cropped": make_spec(24, resize=32, crop=(24, 24), interpolation="nearest"),
    "cropped both ways": make_spec(24, resize=(40, 30), crop=(24, 24), interpolation="nearest"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("size", [(48, 96), (101, 67), (24, 24), (13, 9), (400, 30)])
def test_a_box_of_the_input_is_made_of_the_box_of_the_picture(spec, size):
    """Painting the picture's box paints the input's box, and painting everything else leaves it as it was."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, left = rng.integers(0, 23, 2)
        bottom, right = rng.integers(top + 1, 25), rng.integers(left + 1, 25)
        first, start, last, end = to_picture(spec, size, (top, left, bottom, right))
        picture = np.zeros(size, np.uint8)
        picture[first:last, start:end] = 255
        assert preprocess_image(Image.fromarray(picture), spec)[top:bottom, left:right].min() == 255
        assert preprocess_image(Image.fromarray(255 - picture), spec)[top:bottom, left:right].max() == 0


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_boxes_of_neighbouring_pixels_overlap_by_a_pixel_at_most(spec):
    """Larger boxes would satisfy the test above as well."""
    for place in range(5, 20):
        one = to_picture(spec, (300, 500), (place, place, place + 1, place + 1))
        following = to_picture(spec, (300, 500), (place + 1, place + 1, place + 2, place + 2))
        assert one[2] - 1 <= following[0] <= one[2]
        assert one[3] - 1 <= following[1] <= one[3]


def test_a_box_is_clipped_to_the_picture():
    assert to_picture(SPECS["stretched"], (48, 48), (-5, 20, 3, 40)) == (0, 40, 6, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_oriented_picture(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        shown = ImageOps.exif_transpose(image)
        assert oriented_size(image) == (shown.height, shown.width)
