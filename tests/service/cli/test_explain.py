import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from export.pipeline.export import export_checkpoint
from tests.in_process import client_for, digit, encoded


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "three.png"
    path.write_bytes(encoded(np.kron(digit(3), np.ones((5, 7), np.uint8))))
    return path


def test_every_method_is_drawn_and_recorded(run, lenet_artifact, picture, tmp_path):
    done = run("explain", lenet_artifact, picture, "--method", "all", "--out", tmp_path / "why")
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "why" / "explanation.json").read_text())
    drawn = {row["method"] for row in record["methods"] if "refused" not in row}
    assert {"gradcam", "rise", "occlusion", "integrated_gradients"} <= drawn
    assert {path.stem for path in (tmp_path / "why").glob("*.png")} == drawn
    with Image.open(tmp_path / "why" / "gradcam.png") as overlay:
        assert overlay.size == (56, 40)  # the picture's size
    assert record["image"]["sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    files = read_manifest(lenet_artifact).files
    assert record["files"] == {name: entry.sha256 for name, entry in files.items()}
    refused = next(row["refused"] for row in record["methods"] if row["method"] == "cam")
    assert refused.startswith("CAM needs global")


def test_the_record_can_be_repeated(run, lenet_artifact, picture, tmp_path):
    words = ("explain", lenet_artifact, picture, "--method", "rise", "--samples", 50, "--seed", 7, "--class", 2)
    records = []
    for name in ("first", "second"):
        done = run(*words, "--out", tmp_path / name)
        assert done.status == 0, done.err
        records.append(json.loads((tmp_path / name / "explanation.json").read_text()))
    assert records[0]["methods"] == records[1]["methods"]
    assert records[0]["parameters"] == {"layer": None, "samples": 50, "seed": 7}
    assert records[0]["class"]["index"] == 2


def test_the_map_is_the_servers(run, lenet_artifact, picture, tmp_path):
    run("explain", lenet_artifact, picture, "--method", "occlusion", "--out", tmp_path / "why")
    (row,) = json.loads((tmp_path / "why" / "explanation.json").read_text())["methods"]
    client = client_for(lenet_artifact.parent.parent)
    answer = client.post("/v1/models/lenet/explain?method=occlusion", content=picture.read_bytes()).json()
    assert (row["minimum"], row["maximum"]) == pytest.approx((answer["minimum"], answer["maximum"]), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (("--method", "magic"), 2, "wanted all or one of cam"),
        (("--method", "all", "--samples", "3"), 2, "--samples goes with one method"),
        (("--class", "eleven"), 1, "class is 'eleven'"),
        (("--method", "gradcam", "--layer", "fc.0"), 1, "conv2"),
        (("--method", "gradcam", "--samples", "3"), 1, "has no such number"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(run, lenet_artifact, picture, tmp_path, words, status, part):
    done = run("explain", lenet_artifact, picture, *words, "--out", tmp_path / "why")
    assert (done.status, len(done.err.splitlines())) == (status, 1), done.err
    assert part in done.err
    assert not (tmp_path / "why").exists()


def test_an_artifact_without_onnx_is_refused(run, lenet_checkpoint, picture, tmp_path):
    artifact = export_checkpoint(lenet_checkpoint, out=tmp_path / "artifacts", formats=("torchscript",))
    done = run("explain", artifact, picture, "--out", tmp_path / "why")
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "without model.onnx" in done.err
