"""The dialog of a unit, beside the server's /unit and the trained weights."""

import re

import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.verify.reference import rebuild
from tests.in_process import digit, encoded
from tests.real_server import running_server
from tests.service.page.conftest import upload

IMAGE = encoded(digit(3))


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-"))


def unit_of(server, layer, index):
    return httpx.post(f"{server.url}/v1/models/lenet/unit?layer={layer}&index={index}", content=IMAGE).json()


@pytest.fixture
def opened(page):
    """The page with an image, and a way to open a unit by the address."""
    upload(page, IMAGE)
    page.locator(".card.filled").first.wait_for()

    def show(layer, index):
        page.evaluate(f"location.hash = 'layer={layer}&index={index}'")
        page.wait_for_selector(f"#arithmetic strong:has-text('{layer} [{index.replace(',', ', ')}]')")
        return page

    return show


@pytest.mark.parametrize(("layer", "index"), [("conv1", "2,0,5"), ("conv2", "7,9,0"), ("fc.2", "4"), ("relu", "1,3,3")])
def test_the_terms_give_the_number_that_the_server_computed(opened, server, layer, index):
    page, wanted = opened(layer, index), unit_of(server, layer, index)
    assert number(page.inner_text(".unit-value")) == pytest.approx(wanted["value"], rel=1e-5)
    assert number(page.inner_text(".unit-served")) == pytest.approx(wanted["served"], rel=1e-5)


def test_the_sums_of_the_channels_and_the_bias_add_up(opened, lenet_artifact):
    page = opened("conv2", "7,9,0")
    page.click(".unit-section .link:has-text('further channels')")
    sums = [number(text) for text in page.locator(".unit-windows .unit-number").all_inner_texts()]
    bias = rebuild(lenet_artifact, read_manifest(lenet_artifact)).network.conv2.bias[7].item()
    assert len(sums) == 6
    assert sum(sums) + bias == pytest.approx(number(page.inner_text(".unit-value")), abs=1e-4)


def test_the_kernel_is_the_trained_one(opened, lenet_artifact):
    page = opened("conv1", "2,4,4")
    kernel = page.locator(".unit-grid").nth(1).get_attribute("aria-label")
    shown = [[number(text) for text in row.split(" ")] for row in kernel.split("; ")]
    weights = rebuild(lenet_artifact, read_manifest(lenet_artifact)).network.conv1.weight[2, 0].detach().numpy()
    np.testing.assert_allclose(shown, weights, rtol=5e-3)


def test_walking_back_leads_from_a_logit_to_a_pixel(opened):
    page = opened("fc.2", "4")
    visited = []
    while True:
        unit = page.inner_text(".unit-equation strong")
        visited.append(unit.partition(" [")[0])
        if visited[-1] == "image":
            break
        page.locator(".unit-terms .link").first.click()
        page.wait_for_selector(f"#arithmetic .unit-equation strong:not(:text-is('{unit}'))")
    assert "is a pixel of the picture" in page.inner_text(".unit-equation")
    assert [name for name in visited if name in ("fc.1", "fc.0", "flatten", "conv2", "conv1", "image")] == [
        "fc.1", "fc.0", "flatten", "conv2", "conv1", "image",
    ]  # fmt: skip
    assert "A pixel of the picture." in page.inner_text("#channel-readout")


def test_a_click_on_a_map_opens_the_unit_and_the_address_says_so(page, server):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=pool].filled")
    page.locator("[data-node=pool] .map").click(position={"x": 5, "y": 5})
    page.wait_for_selector(".unit-equation:has-text('the largest input')")
    found = re.search(r"layer=pool&index=0,(\d+),(\d+)", page.url)
    wanted = unit_of(server, "pool", f"0,{found[1]},{found[2]}")
    assert number(page.inner_text(".unit-served")) == pytest.approx(wanted["served"], rel=1e-5, abs=1e-9)
    page.keyboard.press("Escape")
    page.wait_for_selector("#channel", state="hidden")
    assert "layer=" not in page.url


def test_the_keyboard_moves_the_unit_and_back_returns(opened):
    page = opened("conv1", "2,4,4")
    page.locator("#channel-map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [3, 5, 5]')")
    assert page.url.endswith("layer=conv1&index=3,5,5")
    page.locator(".unit-terms .link").first.click()
    page.wait_for_selector("#arithmetic strong:has-text('input [')")
    page.go_back()
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [3, 5, 5]')")


def test_the_kernel_slides_step_by_step_and_by_itself(opened):
    page = opened("conv1", "0,0,27")
    page.click("#channel-on")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [0, 1, 0]')")
    page.click("#channel-back")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [0, 0, 27]')")
    page.click("#channel-play")
    page.wait_for_selector("#arithmetic .unit-equation strong:not(:has-text('conv1 [0, 0, 27]'))")
    page.click("#channel-play")
    assert page.inner_text("#channel-play") == "Play"


def test_the_details_of_a_layer_are_the_servers_statistics(page, server):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=relu].filled")
    page.click("[data-node=relu] .layer-details summary")
    page.wait_for_selector("[data-node=relu] .layer-facts")
    answer = httpx.post(f"{server.url}/v1/models/lenet/feature-maps?layers=relu&statistics=true", content=IMAGE).json()
    statistics = answer["layers"][0]["statistics"]
    shown = dict(
        zip(
            page.locator("[data-node=relu] .layer-facts dt").all_inner_texts(),
            page.locator("[data-node=relu] .layer-facts dd").all_inner_texts(),
            strict=True,
        )
    )
    assert number(shown["standard deviation"]) == pytest.approx(statistics["std"], rel=5e-3)
    assert number(shown["zeros"].removesuffix(" %")) == pytest.approx(100 * statistics["zeros"], abs=0.06)
    dead = page.inner_text("[data-node=relu] .layer-dead")
    assert dead.startswith(f"{len(statistics['dead'])} of 6" if statistics["dead"] else "No channel is 0")


def test_sorted_channels_are_read_where_they_are_drawn(page, server):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=conv1].filled")
    page.click("[data-node=conv1] .layer-details summary")
    page.locator("[data-node=conv1] select").select_option("max")
    answer = httpx.post(
        f"{server.url}/v1/models/lenet/feature-maps?layers=conv1&top=1&rank=max&values=uint8", content=IMAGE
    ).json()
    page.locator("[data-node=conv1] .map").hover(position={"x": 10, "y": 10})
    assert f"channel {answer['layers'][0]['channels'][0]} " in page.inner_text("#readout")


def test_references_of_a_channel_are_shown_where_the_artifact_has_them(browser, indexed_artifact, tmp_path):
    with running_server(indexed_artifact.parent.parent, tmp_path / "log") as server:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.goto(f"{server.url}/#layer=conv2&index=7,3,3")
        page.wait_for_selector(".card")
        upload(page, IMAGE)
        page.wait_for_selector("#references img")
        wanted = httpx.get(f"{server.url}/v1/models/lenet/layers/conv2/channels/7/references").json()
        assert page.locator("#references img").count() == 3
        labels = page.locator(".unit-references li span:first-of-type").all_inner_texts()
        assert [text.partition(",")[0] for text in labels] == [one["label"] for one in wanted["references"]]
        assert "359 test images of digits" in page.inner_text("#references h3")
        page.context.close()
