"""The README's HTTP examples, run as they stand there against a real server."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from models.images.decode import decode_image
from tests.in_process import digit, encoded
from tests.real_browser import absent

README = (Path(__file__).parents[2] / "README.md").read_text()
DEMO, FORM, JSON, MAPS, SHEET, UNIT = re.findall(r"^(?:\$ )?(curl .*)$", README, re.M)  # another one needs another test
(FETCH,) = re.findall(r"```js\n(.*?)```", README, re.S)
ONE, TWO, EXAMPLE = encoded(digit(1)), encoded(digit(2), "JPEG"), encoded(digit(3))


@pytest.fixture
def run(server, tmp_path):
    """Runs a command in a folder with the files that the README speaks of; returns what it prints."""
    if shutil.which("curl") is None:
        absent("there is no curl on the PATH")
    (tmp_path / "runs/lenet-digits").mkdir(parents=True)
    for name, content in (("one.png", ONE), ("two.jpg", TWO), ("runs/lenet-digits/example.png", EXAMPLE)):
        (tmp_path / name).write_bytes(content)

    def call(command):
        assert "http://127.0.0.1:3000/" in command
        here = command.replace("http://127.0.0.1:3000", server.url).replace("models/lenet-digits", "models/lenet")
        done = subprocess.run(here, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def probabilities(lenet_artifact):
    """What ONNX Runtime makes of an image file, (10,)."""
    session = onnxruntime.InferenceSession(lenet_artifact / "model.onnx", providers=["CPUExecutionProvider"])
    spec = read_manifest(lenet_artifact).input
    return lambda data: session.run(["probabilities"], {"image": decode_image(data, spec)[np.newaxis]})[0][0]


def highest(probabilities, count):
    order = np.argsort(-probabilities)[:count].tolist()
    return [
        {"label": str(index), "index": index, "probability": pytest.approx(probabilities[index])} for index in order
    ]


def test_the_first_command_answers_in_the_form_that_is_shown(run, probabilities):
    shown = json.loads(re.search(r"top_k=3'\n(\{.*?)\n```", README, re.S)[1])
    answer = json.loads(run(DEMO))
    assert answer["results"] == [{"predictions": highest(probabilities(EXAMPLE), 3)}]
    assert list(answer) == list(shown)
    assert [list(row) for row in shown["results"][0]["predictions"]] == [["label", "index", "probability"]] * 3


def test_a_form_with_two_files_gets_two_results(run, probabilities):
    assert json.loads(run(FORM)) == {
        "model": "lenet",
        "version": 1,
        "results": [
            {"field": field, "file": name, "predictions": highest(probabilities(data), 1)}
            for field, name, data in (("a", "one.png", ONE), ("b", "two.jpg", TWO))
        ],
    }


def test_json_with_base64_gets_the_same_result(run, probabilities):
    assert json.loads(run(JSON))["results"] == [{"predictions": highest(probabilities(ONE), 1)}]


def test_feature_maps_come_as_a_numpy_file(run, probabilities, tmp_path):
    run(MAPS)
    with np.load(tmp_path / "maps.npz") as maps:
        assert maps["conv1"].shape == (6, 28, 28) and np.ptp(maps["conv1"]) > 0
        np.testing.assert_allclose(maps["probabilities"], probabilities(ONE), atol=1e-6)


def test_a_unit_comes_with_the_served_value(run, tmp_path):
    unit, maps = json.loads(run(UNIT)), run(MAPS)
    assert maps == ""
    with np.load(tmp_path / "maps.npz") as arrays:
        assert unit["value"] == pytest.approx(float(arrays["conv1"][2, 0, 5]), abs=1e-5)


def test_feature_maps_come_as_a_picture(run, tmp_path):
    run(SHEET)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert len(sheet.getcolors(2**24)) > 50


def test_the_browser_example_classifies_a_chosen_file(server, browser, probabilities, tmp_path):
    (best,) = highest(probabilities(ONE), 1)
    page = browser.new_page()
    page.goto(f"{server.url}/livez")  # an empty page of the server's origin
    page.set_content('<input type="file">')
    page.add_script_tag(content=FETCH, type="module")
    for name, content in (("one.png", ONE), ("notes.txt", b"hello")):
        (tmp_path / name).write_bytes(content)
    with page.expect_console_message() as said:
        page.set_input_files("input", tmp_path / "one.png")
    label, probability = said.value.text.split()
    assert label == best["label"]
    assert float(probability) == best["probability"]
    with page.expect_event("pageerror") as raised:
        page.set_input_files("input", tmp_path / "notes.txt")
    assert "image_unsupported: " in raised.value.message
