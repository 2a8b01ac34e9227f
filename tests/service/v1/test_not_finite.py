"""A network that gives no finite scores for some images: each has an error of its own, and nothing else suffers."""

import json
import math

import numpy as np
import pytest
from torch import Tensor, nn

from export.pipeline.export import export_checkpoint
from service.errors import STATUS
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded

FLAT = encoded(np.full((8, 8), 77, np.uint8))
CODE = "scores_not_finite"


class Standardizing(nn.Module):
    """Divides by the image's standard deviation, which is 0 for an image of one level."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels * 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes)."""
        x = x - x.mean((1, 2, 3), keepdim=True)
        return self.fc((x / (x * x).mean((1, 2, 3), keepdim=True).sqrt()).flatten(1))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    runs, out = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("artifacts")
    checkpoint = make_checkpoint(runs / "odd", model=f"{__name__}:Standardizing", size=8)
    return export_checkpoint(checkpoint, out=out, name="odd", formats=("onnx",))


@pytest.fixture(scope="module")
def client(artifact):
    return client_for(artifact.parent.parent)


def test_a_lone_image_is_refused_with_a_reason(client):
    answer = client.post("/v1/classify", content=FLAT)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == CODE
    assert "not finite" in answer.json()["error"]["message"]


def test_among_others_only_it_has_an_error(client):
    files = [("a", encoded(digit())), ("b", FLAT), ("c", encoded(digit(3)))]
    results = client.post("/v1/classify", files=[(name, (name, data)) for name, data in files]).json()["results"]
    assert [row.get("error", {}).get("code") for row in results] == [None, CODE, None]


@pytest.mark.parametrize("route", ["feature-maps", "explain", "unit?layer=fc&index=0"])
def test_inspections_answer_too(client, route):
    answer = client.post(f"/v1/models/odd/{route}", content=FLAT)
    assert answer.status_code in (200, 422)
    json.loads(answer.text, parse_constant=pytest.fail)


def test_a_tensor_is_refused(client):
    answer = client.post("/v2/models/odd/infer", content=FLAT, headers={"inference-header-content-length": "0"})
    assert answer.status_code == 422, answer.text
    assert "NaN" not in answer.text


def test_the_metrics_stay_finite_and_count_it(client):
    for data in (FLAT, encoded(digit())):
        client.post("/v1/classify", content=data)
    lines = client.get("/metrics").text.splitlines()
    values = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
    assert all(math.isfinite(float(value)) for _, value in values)
    assert any(CODE in name and float(value) >= 1 for name, value in values)


def test_the_command_line_prints_it_and_ends_with_3(run, artifact, tmp_path):
    (tmp_path / "flat.png").write_bytes(FLAT)
    (tmp_path / "digit.png").write_bytes(encoded(digit()))
    done = run("classify", tmp_path / "flat.png", tmp_path / "digit.png", "--artifact", artifact, "--json")
    assert done.status == 3
    rows = [json.loads(line, parse_constant=pytest.fail) for line in done.out.splitlines()]
    assert [row.get("error", {}).get("code") for row in rows] == [CODE, None]


def test_the_status_is_no_fault_of_the_server():
    assert {kind.code: status for kind, status in STATUS.items() if hasattr(kind, "code")}[CODE] == 422
