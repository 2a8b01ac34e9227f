"""Images from the model's samples, from the pad and from a camera."""

import io
import json
import shutil

import httpx
import numpy as np
import pytest
from PIL import Image

from export.pipeline.export import export_checkpoint
from tests.real_browser import ARGUMENTS
from tests.real_server import running_server
from tests.service.page.conftest import TIMEOUT_MS


def test_a_sample_gets_the_trained_networks_answer(page, server):
    wanted = httpx.get(f"{server.url}/v1/models/lenet/samples").json()["samples"][2]["prediction"]
    page.locator(".sample").nth(2).click()
    page.wait_for_selector(".headline")
    assert page.inner_text(".headline strong") == wanted["label"]
    assert page.inner_text("#given-title") == "sample 2.png"


@pytest.fixture(scope="module")
def mnist_server(lenet_checkpoint, tmp_path_factory):
    """A LeNet whose manifest names MNIST as its training data."""
    folder = tmp_path_factory.mktemp("mnist")
    shutil.copytree(lenet_checkpoint, folder / "lenet")
    config = folder / "lenet" / "config.json"
    content = json.loads(config.read_text())
    content["dataset"]["name"] = "mnist"
    config.write_text(json.dumps(content))
    export_checkpoint(folder / "lenet", out=folder / "artifacts")
    with running_server(folder / "artifacts", folder / "log") as running:
        yield running


@pytest.mark.parametrize("corner", [(0.1, 0.1), (0.6, 0.55)])
def test_a_drawing_is_sent_centred_and_scaled_as_mnist_was(browser, mnist_server, corner):
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(mnist_server.url)
    page.wait_for_selector(".card")
    assert page.is_checked("#center")
    box = page.locator("#pad").bounding_box()
    for at, (x, y) in enumerate(((0, 0), (0.25, 0), (0.1, 0.3))):
        page.mouse.move(box["x"] + box["width"] * (corner[0] + x), box["y"] + box["height"] * (corner[1] + y), steps=5)
        if at == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#timing:has-text('layers')")
    ink = np.asarray(Image.open(io.BytesIO(page.locator("#seen").screenshot())).convert("L")).astype(float)
    ink[ink < 64] = 0
    ink[:6] = ink[-6:] = ink[:, :6] = ink[:, -6:] = 0  # the frame around it
    rows, columns = np.nonzero(ink)
    pixel = len(ink) / 28
    assert (max(np.ptp(rows), np.ptp(columns)) + 1) / pixel == pytest.approx(20, abs=1.5)
    center = [(ink * np.indices(ink.shape)[axis]).sum() / ink.sum() / pixel for axis in (0, 1)]
    np.testing.assert_allclose(center, 14, atol=0.6)
    page.context.close()


def test_a_picture_from_the_camera_is_classified(browser, server):
    """With Chromium's own moving test picture for a camera."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = browser.browser_type.launch(executable_path=path, args=[*ARGUMENTS, *flags])
    page = other.new_page()
    page.goto(server.url)
    page.wait_for_selector(".card")
    page.click("#camera")
    page.click("#camera:has-text('Take the picture')")
    page.wait_for_selector(".headline")
    assert page.inner_text("#given-title") == "camera.jpg"
    assert page.inner_text("#camera") == "Camera" and page.is_hidden("#camera-video")
    other.close()


def test_a_camera_that_may_not_be_used_says_so(page):
    page.click("#camera")
    page.wait_for_selector("#camera:text-matches('Camera not allowed|No camera')")
