"""The view Numbers, beside the exported node table and LeNet's numbers by hand."""

import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from tests.in_process import digit, encoded
from tests.service.page.conftest import upload

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
PIXELS = """canvas => [canvas.width, canvas.height,
    ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"""


@pytest.fixture
def numbers(page):
    """The page on this view."""
    page.click("#tab-numbers")
    page.wait_for_selector("#panel-numbers table")
    return page


def column(page, place):
    """The texts of a column of the table, from the top."""
    return [text.replace("\u200e", "") for text in page.locator(f"tbody tr > :nth-child({place})").all_inner_texts()]


def pixels(page):
    width, height, *data = page.locator("#panel-numbers canvas").evaluate(PIXELS)
    return np.reshape(data, (height, width, 4))[..., :3].astype(int)


def test_the_table_has_every_layer_with_its_numbers(numbers, lenet_artifact):
    nodes = read_manifest(lenet_artifact).nodes
    assert column(numbers, 1) == [node.name for node in nodes]
    assert column(numbers, 2) == [node.op for node in nodes]
    assert column(numbers, 3) == [f" {TIMES} ".join(map(str, node.shape)) for node in nodes]
    fields = [TIMES.join(map(str, node.receptive_field)) if node.receptive_field else "all" for node in nodes]
    assert column(numbers, 4) == fields
    assert column(numbers, 5) == [f"{node.parameters:,}" if node.parameters else DASH for node in nodes]
    macs = [
        float(text.removesuffix(" k")) * (1000 if "k" in text else 1) for text in column(numbers, 6) if text != DASH
    ]
    assert macs == pytest.approx([node.macs for node in nodes if node.macs], rel=0.005)
    assert numbers.complaints == []


def test_totals_and_what_dominates_are_lenets(numbers):
    terms = numbers.locator("#panel-numbers dt").all_inner_texts()
    facts = dict(zip(terms, numbers.locator("#panel-numbers dd").all_inner_texts(), strict=True))
    # 156 + 2,416 + 48,120 + 10,164 + 850 parameters; activations of 4 bytes.
    sizes = [6 * 28 * 28] * 2 + [6 * 14 * 14] + [16 * 100] * 2 + [400] * 2 + [120] * 2 + [84] * 2 + [10]
    assert facts["layers"] == "12"
    assert facts["parameters"] == "61,706"
    assert facts["weights in float32"] == "247 kB"
    assert float(facts["activations of all layers"].removesuffix(" kB")) == pytest.approx(
        4 * sum(sizes) / 1000, rel=5e-3
    )
    says = numbers.locator(".numbers-says").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "fc.0 holds 78.0 % of the parameters, fc.1 16.5 %." in says  # 48,120 and 10,164 of 61,706
    assert "conv2 computes 57.6 % of the multiply-accumulates, conv1 28.2 %." in says  # 240,000 and 117,600 of 416,520
    assert "The largest activations are those of conv1 and 1 more, each 4,704 numbers" in says
    assert "From flatten on, a position can see as much as the whole picture." in says


def test_columns_sort_by_mouse_and_keyboard_and_bars_compare_with_the_largest(numbers, lenet_artifact):
    nodes = read_manifest(lenet_artifact).nodes
    numbers.click("th >> text=Parameters")
    assert column(numbers, 1) == [node.name for node in sorted(nodes, key=lambda node: -node.parameters)]
    assert numbers.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    shares = numbers.locator("tbody td:nth-child(5) .numbers-bar").evaluate_all(
        "all => all.map(bar => +bar.style.getPropertyValue('--share'))"
    )
    assert shares == pytest.approx([count / 48120 for count in (48120, 10164, 2416, 850, 156)])
    numbers.locator("th >> text=MACs").focus()
    numbers.keyboard.press("Enter")
    numbers.keyboard.press("Enter")
    assert column(numbers, 1) == [node.name for node in sorted(nodes, key=lambda node: node.macs)]
    assert numbers.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    numbers.click("th >> text=Layer")
    assert column(numbers, 1) == [node.name for node in nodes]


def test_a_row_outlines_its_field_to_scale_on_the_picture(numbers, lenet_artifact):
    upload(numbers, encoded(digit(3)))
    numbers.locator("#timing:has-text('layers')").wait_for()
    numbers.locator("tr[data-layer=conv2]").hover()
    caption = numbers.locator("#panel-numbers figcaption").inner_text()
    assert caption == f"conv2 sees 14{TIMES}14 pixels, and moves 2{TIMES}2 from place to place."
    drawn = pixels(numbers)
    pink = (np.abs(drawn - (255, 79, 176)).max(axis=-1) < 40).nonzero()
    zoom = len(drawn) / 28
    # conv1 pads by 2 and pool halves: position 5 of conv2 begins at 2 * 5 - 2.
    for found in pink:
        assert found.min() / zoom == pytest.approx(8, abs=0.6)
        assert (found.max() + 1) / zoom == pytest.approx(22, abs=0.6)
    numbers.locator("tr[data-layer='fc.0']").hover()
    assert "sees the whole image" in numbers.locator("#panel-numbers figcaption").inner_text()
    numbers.mouse.move(5, 5)
    assert "Point at a row" in numbers.locator("#panel-numbers figcaption").inner_text()


def test_a_row_goes_to_its_layer(numbers):
    numbers.locator("tr[data-layer=conv2] button").focus()
    numbers.keyboard.press("Enter")
    numbers.locator("[data-node=conv2] .map:focus").wait_for()
    assert numbers.locator("#tab-layers").get_attribute("aria-selected") == "true"
    numbers.go_back()
    numbers.locator("#panel-numbers table").wait_for()


def test_the_view_fits_a_phone(numbers):
    numbers.set_viewport_size({"width": 375, "height": 740})
    assert numbers.evaluate("document.documentElement.scrollWidth") <= 375
    assert numbers.locator("#panel-numbers canvas").is_visible()


def test_the_silent_channels_of_every_layer_that_computes_are_counted_for_the_image(numbers, server):
    image = encoded(digit(3))
    upload(numbers, image)
    numbers.wait_for_selector(".numbers-silent:has-text('0 everywhere on this image')")
    answer = httpx.post(
        f"{server.url}/v1/models/lenet/feature-maps?values=uint8&channels=0&statistics=true", content=image
    ).json()
    wanted = {layer["name"]: layer["statistics"] for layer in answer["layers"] if layer["name"] != "flatten"}
    shown = dict(zip(column(numbers, 1), column(numbers, 7), strict=True))
    for name, statistics in wanted.items():
        assert shown[name] == f"{len(statistics['dead'])} of {len(statistics['channels'])}"
    assert shown["flatten"] == DASH  # its silent elements are those of pool_1
    total = sum(len(statistics["dead"]) for statistics in wanted.values())
    assert total > 0
    assert f": {total} in " in numbers.inner_text(".numbers-silent")
    numbers.click("th >> text=Silent")
    counts = [int(text.split()[0]) for text in column(numbers, 7) if text != DASH]
    assert counts == sorted(counts, reverse=True)
