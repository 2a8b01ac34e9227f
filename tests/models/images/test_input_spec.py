"""An input specification that contradicts itself is refused, and one that does not survives JSON."""

import json
from typing import Any

import pytest

from models.images.input_spec import InputSpec
from tests.conftest import make_spec


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": "CMYK"}, "mode is 'CMYK'; known are 'L'"),
        ({"height": 0}, r"input is 0x28 \(height x width\)"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; known are nearest, bilinear"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values; mode L needs 1"),
        ({"std": ()}, "std has 0 values; mode L needs 1"),
        ({"background": (1, 2, 3)}, "background has 3 values; mode L needs 1"),
        ({"std": (0.0,)}, r"std is \(0.0,\); every value must be above 0"),
        ({"resize": (28, 29)}, r"resize \(28, 29\) and crop None do not end at 28x28"),
        ({"resize": 32}, "resize 32 and crop None do not end at 28x28"),
        ({"resize": 24, "crop": (28, 28)}, "resize 24 is smaller than the crop 28x28"),
        ({"resize": (32, 24), "crop": (28, 28)}, r"resize \(32, 24\) is smaller than the crop 28x28"),
    ],
)
def test_a_specification_that_contradicts_itself_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_spec(**changes)


@pytest.mark.parametrize("spec", [make_spec(), make_spec(32, 3), make_spec(24, 3, resize=32, crop=(24, 24))])
def test_a_specification_survives_json(spec: InputSpec) -> None:
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_unknown_and_missing_keys_of_a_specification_fail() -> None:
    content = make_spec().to_json()
    with pytest.raises(ValueError, match="unexpected keyword argument 'gamma'"):
        InputSpec.from_json({**content, "preprocess": {**content["preprocess"], "gamma": 2.2}})
    del content["preprocess"]["mean"]
    with pytest.raises(ValueError, match=r"missing 1 required.*'mean'"):
        InputSpec.from_json(content)


def test_only_antialiased_resizing_is_read_and_written() -> None:
    content = make_spec().to_json()
    assert content["preprocess"]["antialias"] is True
    with pytest.raises(ValueError, match="antialias is false"):
        InputSpec.from_json({**content, "preprocess": {**content["preprocess"], "antialias": False}})
    del content["preprocess"]["antialias"]
    assert InputSpec.from_json(content) == make_spec()
