import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded
from tests.real_server import running_server


@pytest.fixture
def pictures(tmp_path):
    """Three digits and a text file."""
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encoded(digit(index)))
    (tmp_path / "notes.png").write_text("not an image")
    return [tmp_path / "0.png", tmp_path / "notes.png", tmp_path / "1.png", tmp_path / "absent.png"]


def test_classify_gives_the_same_here_and_on_a_server(run, lenet_artifact, pictures, tmp_path):
    with running_server(lenet_artifact, tmp_path / "log") as server:
        there = run("classify", *pictures, "--url", server.url, "--json", "--top-k", 3)
    here = run("classify", *pictures, "--artifact", lenet_artifact, "--json", "--top-k", 3)
    assert here.status == there.status == 3  # some images had errors
    rows = [[json.loads(line) for line in done.out.splitlines()] for done in (here, there)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours["image"] == theirs["image"]
        if "error" in ours:
            assert ours["error"]["code"] == theirs["error"]["code"]
        else:
            labels = [[row["label"] for row in result["predictions"]] for result in (ours, theirs)]
            assert labels[0] == labels[1] and len(labels[0]) == 3
    assert [row.get("error", {}).get("code") for row in rows[0]] == [None, "image_unsupported", None, "file_unreadable"]


def test_names_that_are_not_utf_8_are_escaped_and_end_nothing(run, lenet_artifact, pictures):
    odd = pictures[0].with_name(os.fsdecode(b"caf\xe9.png"))
    odd.write_bytes(pictures[0].read_bytes())
    done = run("classify", odd, pictures[2], "--artifact", lenet_artifact, "--json", "--top-k", 99)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert (done.status, len(rows)) == (0, 2)
    assert rows[0]["image"].endswith("caf\\xe9.png")
    assert len(rows[0]["predictions"]) == 10
    assert "caf\\xe9.png: " in run("classify", odd, "--artifact", lenet_artifact).out


def test_classify_prints_the_engines_answer(run, lenet_artifact, pictures):
    manifest = read_manifest(lenet_artifact)
    image = decode_image(pictures[0].read_bytes(), manifest.input)
    probabilities = open_engine(lenet_artifact, manifest, device="cpu").run(image[np.newaxis])[0][0]
    done = run("classify", pictures[0], "--artifact", lenet_artifact.parent)
    best = probabilities.argmax()
    assert done.status == 0
    assert done.out.startswith(f"{pictures[0]}: {manifest.classes[best]} {probabilities[best]:.1%}, ")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "no images were given"),
        (["a.png"], 2, "give either --artifact DIR or --url URL"),
        (["a.png", "--artifact", "nowhere"], 1, "nowhere is not an artifact"),
        (["a.png", "--url", "http://127.0.0.1:9"], 1, "no answer from http://127.0.0.1:9"),
        (["a.png", "--url", "not a url"], 1, "no answer from not a url"),
    ],
)
def test_classify_refuses_in_one_line(run, tmp_path, monkeypatch, words, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded(digit()))
    done = run("classify", *words)
    assert (done.status, len(done.err.splitlines())) == (status, 1), done.err
    assert message in done.err


def test_inspect_draws_a_sheet(run, lenet_artifact, pictures, tmp_path):
    out = tmp_path / "sheet.png"
    done = run("inspect", lenet_artifact, pictures[0], "--layers", "conv*,pool*", "--out", out)
    assert done.status == 0, done.err
    assert "4 layers of model.onnx" in done.out
    with Image.open(out) as sheet:
        assert sheet.width > 1000 and len(sheet.getcolors(1 << 24)) > 20


def test_inspect_writes_arrays(run, lenet_artifact, pictures, tmp_path):
    done = run("inspect", lenet_artifact, pictures[0], "--layers", "conv*", "--out", tmp_path / "maps.npz")
    assert done.status == 0, done.err
    client = client_for(lenet_artifact.parent.parent)
    answer = client.post("/v1/models/lenet/feature-maps?layers=conv*&format=npz", content=pictures[0].read_bytes())
    with np.load(tmp_path / "maps.npz") as ours, np.load(io.BytesIO(answer.content)) as theirs:
        assert set(ours.files) == set(theirs.files) == {"probabilities", "conv1", "conv2"}
        np.testing.assert_array_equal(ours["conv2"], theirs["conv2"])


def test_inspect_animates_a_sliding_kernel(run, lenet_artifact, pictures, tmp_path):
    words = (
        "inspect",
        lenet_artifact,
        pictures[0],
        "--layers",
        "conv1",
        "--channel",
        2,
        "--out",
        tmp_path / "slide.gif",
    )
    done = run(*words)
    assert done.status == 0, done.err
    with Image.open(tmp_path / "slide.gif") as slide:
        assert slide.n_frames == int(done.out.partition(": ")[2].split()[0]) > 100
        slide.seek(0)
        first = np.asarray(slide.convert("RGB"))
        slide.seek(slide.n_frames - 1)
        last = np.asarray(slide.convert("RGB"))
    left, right = slice(16, 296), slice(312, 592)
    assert (first[:, right] != last[:, right]).any()  # the output has been filled
    assert first[80:200, right].std() < last[80:200, right].std()
    assert (first[:, left] != last[:, left]).any()  # and the window has moved
    assert run(*words[:6], 6, *words[7:]).status == 1  # there are six channels


@pytest.mark.parametrize(
    ("image", "layers", "out", "status", "message"),
    [
        ("notes.png", "*", "sheet.png", 1, "not an image"),
        ("absent.png", "*", "sheet.png", 1, "No such file"),
        ("", "*", "sheet.png", 1, "is a folder; give one of its files"),
        ("0.png", "conv7", "sheet.png", 1, "has no layer 'conv7'"),
        ("0.png", "*", "sheet.jpg", 2, "must end in .png, .npz or .gif"),
        ("0.png", "fc.0", "slide.gif", 1, "a kernel slides over feature maps"),
        ("0.png", "relu", "slide.gif", 1, "slides no kernel"),
        ("0.png", "conv*", "slide.gif", 1, "has no layer 'conv*'"),
    ],
)
def test_inspect_refuses_in_one_line(run, lenet_artifact, pictures, tmp_path, image, layers, out, status, message):
    done = run("inspect", lenet_artifact, tmp_path / image, "--layers", layers, "--out", tmp_path / out)
    assert (done.status, len(done.err.splitlines())) == (status, 1), done.err
    assert message in done.err and not (tmp_path / out).exists()


def test_unit_prints_what_the_server_answers(run, lenet_artifact, pictures):
    done = run("unit", lenet_artifact, pictures[0], "conv1", "2,0,7")
    assert done.status == 0, done.err
    client = client_for(lenet_artifact.parent.parent)
    answer = client.post("/v1/models/lenet/unit?layer=conv1&index=2,0,7", content=pictures[0].read_bytes()).json()
    assert f"result {answer['value']:.6g}, served {answer['served']:.6g}" in done.out


@pytest.mark.parametrize(
    ("image", "layer", "index", "status", "message"),
    [
        ("notes.png", "conv1", "0,0,0", 1, "not an image"),
        ("0.png", "conv7", "0,0,0", 1, "has no layer 'conv7'"),
        ("0.png", "conv1", "0,0", 1, "0 to 5, 0 to 27, 0 to 27"),
        ("0.png", "conv1", "0,0,x", 2, "wanted whole numbers"),
    ],
)
def test_unit_refuses_in_one_line(run, lenet_artifact, pictures, tmp_path, image, layer, index, status, message):
    done = run("unit", lenet_artifact, tmp_path / image, layer, index)
    assert (done.status, len(done.err.splitlines())) == (status, 1), done.err
    assert message in done.err
