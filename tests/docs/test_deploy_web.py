"""ONNX Runtime Web gets the trained network's answers: in Node, and on the page of docs/deploy.md in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.process.server import wait_until_ready
from tests.docs.deploy_page import IMAGES, INPUTS, PROGRAMS, TEXT, Deployed, deploy, noise
from tests.real_browser import absent
from tests.real_server import free_port, stop

if TYPE_CHECKING:
    from playwright.sync_api import Browser

(PACKAGE,) = re.findall(r"`npm install (onnxruntime-web@[\d.]+)`", TEXT)
(COPY,) = re.findall(r"^cp node_modules/.*$", TEXT, re.MULTILINE)
SIZES = {"stretched": [(28, 28)], "cropped": [(36, 36), (36, 40), (44, 36)]}  # nothing is left to resize
NODE = """
import {readFileSync} from "node:fs";
import * as ort from "onnxruntime-web";
const [height, width, channels] = process.argv.slice(2).map(Number);
const pixels = new Uint8Array(readFileSync("images.bin"));
const session = await ort.InferenceSession.create("model.onnx", {executionProviders: ["wasm"]});
const shape = [pixels.length / (height * width * channels), height, width, channels];
const {probabilities} = await session.run({image: new ort.Tensor("uint8", pixels, shape)});
console.log(JSON.stringify([...probabilities.data]));
"""


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """`node_modules` with the package that the page names; pytest's cache keeps it."""
    folder = request.config.cache.mkdir(PACKAGE) / "node_modules"
    if not folder.exists():
        if shutil.which("npm") is None:
            absent("npm is not installed")
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", "--loglevel=error"]
        with TemporaryDirectory(dir=folder.parent) as staging:
            words = ["npm", "install", *options, "--prefix", staging, PACKAGE]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                absent(f"npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[0]}")
            (Path(staging) / "node_modules").rename(folder)
    return folder


@pytest.fixture(scope="module", params=INPUTS)
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """With PNG files of sizes that need no resizing, in colour, whatever the network takes."""
    folder, generator = tmp_path_factory.mktemp(request.param), np.random.default_rng(1)
    sizes = SIZES[request.param]
    paths = [folder / f"{index:03}.png" for index in range(IMAGES)]
    for index, path in enumerate(paths):
        noise(generator, *sizes[index % len(sizes)]).save(path)
    return deploy(tmp_path_factory.getbasetemp(), request.param, paths)


@pytest.fixture
def site(deployed: Deployed, packages: Path, tmp_path: Path) -> Path:
    """A folder as the page asks for it."""
    (tmp_path / "node_modules").symlink_to(packages)
    for name in ("model.onnx", "manifest.json"):
        shutil.copy(deployed.artifact / name, tmp_path)
    return tmp_path


def test_in_node_the_answers_are_the_trained_networks(deployed: Deployed, site: Path) -> None:
    (site / "classify.mjs").write_text(NODE)
    (site / "images.bin").write_bytes(deployed.pixels.tobytes())
    words = ["node", "classify.mjs", *map(str, deployed.pixels.shape[1:])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=site)
    classes = json.loads((site / "manifest.json").read_text())["classes"]
    rows = np.array(json.loads(done.stdout)).reshape(IMAGES, len(classes))
    deployed.check([classes[index] for index in rows.argmax(1)], list(rows.max(1)))


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The page on the web server that the page names."""
    (site / "classify.html").write_text(PROGRAMS["classify.html"])
    subprocess.run(COPY, shell=True, check=True, cwd=site)
    (site / "node_modules").unlink()  # what was copied must do
    port = free_port()
    words = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    process = subprocess.Popen(words, cwd=site, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, timeout_s=30, path="/classify.html")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def test_in_the_browser_the_answers_are_the_trained_networks(
    deployed: Deployed, address: str, browser: "Browser"
) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}/classify.html")
    page.wait_for_selector("#files:enabled")
    page.set_input_files("#files", deployed.paths)
    page.wait_for_function(f"document.querySelector('#answers').textContent.split('\\n').length > {IMAGES}")
    found = [line.split("\t") for line in page.locator("#answers").inner_text().splitlines()]
    page.close()
    assert complaints == []
    assert [row[0] for row in found] == [path.name for path in deployed.paths]
    deployed.check([row[1] for row in found], [float(row[2]) for row in found])
    assert all(url.startswith(f"{address}/") for url in asked)
    assert len(asked) >= 5
