"""The page in a real browser, against a real server."""

import re
from pathlib import Path

import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.engines.selection import open_engine
from models.images.decode import decode_image
from tests.in_process import digit, encoded
from tests.service.page.conftest import upload

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
# In the page: whether anything but one colour is on a canvas.
IS_DRAWN = """canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const words = new Uint32Array(data.buffer);
    return words.some(word => word !== words[0]);
}"""


def names(artifact: Path) -> list[str]:
    return [node.name for node in read_manifest(artifact).nodes]


def wait_for_all(page, artifact: Path) -> None:
    """Until every layer has its values; not with `wait_for_function`, whose eval the page's policy forbids."""
    page.locator(".card.filled").nth(len(names(artifact)) - 1).wait_for()


def draw_seven(page):
    """Draws with the mouse; the button is let go at the end."""
    box = page.locator("#pad").bounding_box()
    for x, y in ((0.3, 0.2), (0.7, 0.2), (0.45, 0.8)):
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=8)
        page.mouse.down()
    page.mouse.up()


def test_the_graph_is_there_before_any_image(page, lenet_artifact):
    shapes = [f" {TIMES} ".join(map(str, node.shape)) for node in read_manifest(lenet_artifact).nodes]
    assert page.locator(".card h3").all_inner_texts() == names(lenet_artifact)
    assert page.locator(".card .shape").all_inner_texts() == shapes
    assert page.locator(".card.filled").count() == 0
    assert "Draw" in page.locator("#answer").inner_text()


def test_an_upload_fills_every_card_and_shows_the_engines_answer(page, lenet_artifact):
    manifest = read_manifest(lenet_artifact)
    data = encoded(digit(3))
    engine = open_engine(lenet_artifact, manifest, device="cpu")
    probabilities = engine.run(decode_image(data, manifest.input)[np.newaxis])[0][0]
    upload(page, data)
    wait_for_all(page, lenet_artifact)
    page.wait_for_selector(".headline")
    assert page.locator(".headline strong").inner_text() == manifest.classes[int(probabilities.argmax())]
    shown = page.locator("#answer .value").first.inner_text()
    assert float(shown.removesuffix(" %")) == pytest.approx(100 * probabilities.max(), abs=0.06)
    maps = page.locator(".card .map").all()
    assert len(maps) == len(manifest.nodes) - 1  # the logits are rows with class names
    assert all(each.evaluate(IS_DRAWN) for each in maps)
    assert page.locator("#seen").evaluate(IS_DRAWN)
    assert page.locator(".logits .label").all_inner_texts() == list(manifest.classes)


def test_a_drawing_is_classified_and_can_be_undone(page, lenet_artifact):
    draw_seven(page)
    page.wait_for_selector(".headline")
    wait_for_all(page, lenet_artifact)
    assert page.locator("#seen").evaluate(IS_DRAWN)
    page.click("#undo")
    page.wait_for_selector(".invitation")
    assert page.locator(".card.filled").count() == 0


def test_a_file_that_is_no_image_shows_the_servers_reason_and_no_stale_prediction(page):
    page.refusals = True
    upload(page, encoded(digit(0)))
    page.wait_for_selector(".headline")
    upload(page, b"hello", name="notes.txt", kind="text/plain")
    page.wait_for_selector("#notice-text:has-text('not an image')")
    page.wait_for_selector(".invitation")
    upload(page, encoded(digit(1)))
    page.wait_for_selector(".headline")
    page.wait_for_selector("#notice", state="hidden")


def test_nothing_leaves_for_another_host_and_the_console_stays_empty(page, server):
    upload(page, encoded(digit(5)))
    page.wait_for_selector(".card.filled")
    page.select_option("#palette", "viridis")
    page.locator("[data-node=conv1] .map").click(position={"x": 20, "y": 20})
    page.wait_for_selector("#channel-readout:has-text('=')")
    page.keyboard.press("Escape")
    draw_seven(page)
    page.wait_for_selector("#timing:has-text('layers')")
    assert [url for url in page.requests if not re.match(rf"({server.url}/|data:|blob:{server.url}/)", url)] == []
    assert page.complaints == []


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (9, 9)])
def test_hovering_reads_the_value_and_its_receptive_field(page, lenet_artifact, row, column):
    data = encoded(digit(3))
    upload(page, data)
    page.wait_for_selector("[data-node=conv2].filled")
    canvas = page.locator("[data-node=conv2] .map")
    canvas.scroll_into_view_if_needed()
    across, height, gap = 8, 10, 3
    step = (canvas.bounding_box()["width"] + gap) / across
    cell = (step - gap) / height
    canvas.hover(position={"x": step + (column + 0.5) * cell, "y": (row + 0.5) * cell})  # channel 1
    text = page.locator("#readout").inner_text()
    manifest = read_manifest(lenet_artifact)
    node = next(node for node in manifest.nodes if node.name == "conv2")
    taps = OnnxFeatureExtractor(lenet_artifact / "model.onnx", [node])
    value = taps.run(decode_image(data, manifest.input)[np.newaxis], [node.value])[1][0][0]
    found = re.search(r"channel 1 · row (\d+) · column (\d+) ≈ (\S+)", text)
    assert found, text
    assert (int(found[1]), int(found[2])) == (row, column)
    assert float(found[3].replace(MINUS, "-")) == pytest.approx(value[1, row, column], abs=float(np.ptp(value)) / 255)
    # conv1 pads by 2 and pool halves: position 0 begins at -2, a step is 2 pixels, and 14 are seen.
    top, left = 2 * row - 2, 2 * column - 2
    rows, columns = ((max(0, start), min(28, start + 14) - 1) for start in (top, left))
    assert f"rows {rows[0]}{DASH}{rows[1]}, columns {columns[0]}{DASH}{columns[1]}" in text


def test_the_page_fits_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    upload(page, encoded(digit(2)))
    page.wait_for_selector(".headline")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_every_view_and_fact_is_in_sight_on_a_phone(page):
    page.set_viewport_size({"width": 375, "height": 740})
    for each in page.locator("#tabs button, #facts div").all():
        box = each.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 375
    assert page.locator("#tabs").evaluate("tabs => tabs.scrollWidth <= tabs.clientWidth")


def test_the_header_has_one_line_and_the_engine_in_a_title(page, server):
    def lengthen(route):
        answer = route.fetch().json()
        answer["models"][0] |= {"network": "mobilenet_v3_small", "file": "model.int8.onnx", "dataset": "fashionmnist"}
        route.fulfill(json=answer)

    page.route("**/v1/models", lengthen)
    page.reload()
    page.wait_for_selector(".card")
    tops = {fact.bounding_box()["y"] for fact in page.locator("#facts div").all()}
    assert len(tops) == 1
    assert page.locator("#facts div").last.get_attribute("title") == "onnxruntime on cpu"
    assert page.locator(".bar").first.bounding_box()["height"] < 60
