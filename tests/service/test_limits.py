"""Whatever a request has too much of, the error names the setting that allows more."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.images.errors import ImageTooLarge
from models.images.input_spec import InputSpec
from service import settings
from service.serving.decode_pool import decode_or_error
from service.settings import PREFIX, Limit, Settings
from tests.in_process import client_for, digit, encoded

IMAGE = encoded(digit())
TWO = [("file", IMAGE), ("file", IMAGE)]
TENSOR = {"name": "image", "datatype": "UINT8", "shape": [2, 28, 28, 1], "data": [0] * (2 * 28 * 28)}

CLASSES = {"name": "probabilities", "parameters": {"classification": 1000}}  # of which there are 10


def classify(client, **body):
    return client.post("/v1/classify", **body)


def inspect(client, query=""):
    return client.post(f"/v1/models/lenet/feature-maps{query}", content=IMAGE)


def infer(client, **more):
    return client.post("/v2/models/lenet/infer", json={"inputs": [TENSOR], **more})


def predict(client):
    return client.post("/predict", json={"images": [[[[0]] * 28] * 28] * 2})


@pytest.mark.parametrize(
    ("name", "value", "ask", "status"),
    [
        ("body_limit_bytes", 1024, lambda c: classify(c, content=bytes(2000)), 413),
        ("body_limit_bytes", 1024, lambda c: classify(c, content=iter([bytes(1000)] * 2)), 413),
        ("held_limit_bytes", 1024, lambda c: classify(c, content=bytes(2000)), 429),
        ("json_limit_bytes", 1024, predict, 413),
        ("json_limit_bytes", 1024, infer, 413),
        ("json_depth_limit", 4, lambda c: c.post("/predict", json={"images": [[[[[0]]]]]}), 400),
        ("image_limit_pixels", 8, lambda c: classify(c, content=IMAGE), 413),
        ("image_limit_pixels", 8, inspect, 413),
        ("images_per_request", 1, lambda c: classify(c, files=TWO), 413),
        ("images_per_request", 1, predict, 413),
        ("images_per_request", 1, infer, 413),
        ("top_k_limit", 5, lambda c: classify(c, content=IMAGE, params={"top_k": 6}), 400),
        ("top_k_limit", 5, lambda c: infer(c, outputs=[CLASSES]), 400),
        ("inspection_limit_values", 100, lambda c: inspect(c, "?format=npz"), 413),
        ("inspection_limit_json_values", 100, inspect, 413),
        ("deadline_s", 1e-6, lambda c: classify(c, content=IMAGE), 504),
    ],
)
def test_an_error_names_the_setting(lenet_artifact, name, value, ask, status):
    answer = ask(client_for(lenet_artifact.parent.parent, **{name: value}))
    assert (answer.status_code, f"({PREFIX}{name.upper()})" in answer.text) == (status, True), answer.text


def test_an_image_that_no_setting_would_let_in_names_none():
    grey = {"background": (0,), "mean": (0.0,), "std": (1.0,)}
    spec = InputSpec(mode="L", height=224, width=224, resize=256, crop=(224, 224), **grey)
    for limit in (50_000_000, 900_000_000):
        refused = decode_or_error(encoded(np.zeros((1, 40_000), np.uint8)), spec, Limit(limit, "CONVSCOPE_X"))
        assert isinstance(refused, ImageTooLarge) and "the limit is 50 MP" in str(refused)
        assert "CONVSCOPE_X" not in str(refused)


def test_every_setting_that_is_named_anywhere_exists():
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    files = [path for path in Path(settings.__file__).parent.rglob("*.py") if path.name != "settings.py"]
    named = {name for path in files for name in re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", path.read_text())}
    assert {"CONVSCOPE_DEADLINE_S", "CONVSCOPE_MEMORY_LIMIT_MB"} <= named and named - known <= {"CONVSCOPE_STATE_DIR"}
