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
    row, column = (int(one) for one in re.findall(r"\d+", page.inner_text(".unit-equation strong"))[:2])
    assert page.inner_text("#channel-readout") == f"A pixel of the picture: row {row}, column {column}, channel 0."


PINK = """canvas => {
    const {data, width} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const found = [];
    for (let at = 0; at < data.length; at += 4)
        if (data[at] === 255 && data[at + 1] === 79 && data[at + 2] === 176)
            found.push([Math.floor(at / 4 / width), (at / 4) % width]);
    return [width, found];
}"""


@pytest.mark.parametrize(
    ("layer", "index", "words"), [("input", "0,5,14", " divided by a number"), ("input:sub", "0,5,14", "plus or minus")]
)
def test_the_normalization_is_shown_with_its_numbers_and_its_pixel_on_the_picture(opened, server, layer, index, words):
    page, wanted = opened(layer, index), unit_of(server, layer, index)
    assert words in page.inner_text(".unit-equation")
    shown = re.search(r"give (\S+) (\S) (\S+) = (\S+);", page.inner_text(".unit-sum"))
    left, right, result = (number(shown[place]) for place in (1, 3, 4))
    worked = left / right if shown[2] == "/" else left + (right if shown[2] == "+" else -right)
    assert (result, worked) == (pytest.approx(wanted["value"], rel=1e-5), pytest.approx(wanted["value"], rel=1e-4))
    assert page.locator(".unit-terms .unit-number").count() == 1  # no factor of 1
    assert ("The axes change order" in page.inner_text("#arithmetic")) == (layer == "input:sub")
    width, pixels = page.locator("#channel-seen").evaluate(PINK)
    zoom = width / 28
    assert np.mean(pixels, axis=0) == pytest.approx(((5 + 0.5) * zoom, (14 + 0.5) * zoom), abs=1.5)
    picture, below = (page.locator(one).bounding_box() for one in ("#channel-seen", ".unit-equation"))
    assert picture["x"] == pytest.approx(below["x"], abs=1)


def test_a_pixel_is_its_value_and_nothing_else(opened, server):
    page, wanted = opened("image", "5,14,0"), unit_of(server, "image", "5,14,0")
    assert page.inner_text(".unit-sum") == f"Its value is {wanted['served']:g}."


def test_numbers_within_rounding_are_called_the_same_and_look_it(opened):
    page = opened("conv2", "7,3,3")
    assert page.inner_text(".unit-value") == page.inner_text(".unit-served")
    assert re.search(r"the same( up to rounding \(\S+\))?\.$", page.inner_text(".unit-sum"))


def test_a_maximum_lists_its_winner_first(opened, server):
    page = opened("pool", "2,5,5")
    assert page.inner_text("#arithmetic h3") == "Its 4 inputs, the largest first"
    shown = [number(text) for text in page.locator(".unit-terms .unit-number").all_inner_texts()]
    wanted = [unit_of(server, "relu", f"2,{row},{column}")["served"] for row in (10, 11) for column in (10, 11)]
    assert shown == pytest.approx(sorted(wanted, reverse=True), rel=1e-5)
    page = opened("conv1", "2,4,4")
    assert page.inner_text("#arithmetic h3").startswith("Its 25 inputs, by the size of their products")
    products = [abs(number(text[2:])) for text in page.locator(".unit-terms li > :last-child").all_inner_texts()]
    assert products == sorted(products, reverse=True)
    page.click("text=Show the other 13")
    assert page.locator(".unit-terms li").count() == 25


def test_the_head_of_the_dialog_stays_and_names_what_it_shows(opened):
    page = opened("conv2", "7,3,3")
    assert page.inner_text("#channel-title") == "conv2 · channel 7 of 16 (from 0)"
    assert page.inner_text("#channel-motion") == "slides the kernel over the map"
    page.locator("#arithmetic .unit-terms").scroll_into_view_if_needed()
    page.locator("#channel").evaluate("dialog => dialog.scrollTop = dialog.scrollHeight")
    dialog, close = (page.locator(one).bounding_box() for one in ("#channel", "#channel-close"))
    assert dialog["y"] <= close["y"] <= dialog["y"] + 60
    page = opened("relu", "2,3,3")
    assert page.inner_text("#channel-motion") == "steps through the map"


def test_closing_returns_to_the_unit_that_was_open(page):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=conv1].filled")
    page.locator("[data-node=conv1] .map").click(position={"x": 230, "y": 50})
    page.wait_for_selector(".unit-equation")
    channel, row, column = re.search(r"index=(\d+),(\d+),(\d+)", page.url).groups()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#arithmetic strong:has-text('conv1 [{channel}, {row}, {int(column) + 1}]')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#channel", state="hidden")
    if page.locator("#readout").is_visible():
        assert f"channel {channel} · row {row} · column {int(column) + 1}" in page.inner_text("#readout")


def test_the_details_name_the_silent_units_of_a_vector(page, server):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=relu_2].filled")
    assert page.inner_text("[data-node=relu_2] summary") == "Statistics, silent channels"
    assert page.inner_text("[data-node=flatten] summary") == "Statistics"
    assert page.inner_text("[data-node=conv2] summary") == "Statistics, silent channels, kernels"
    page.click("[data-node=relu_2] .layer-details summary")
    page.wait_for_selector("[data-node=relu_2] .layer-silent .link")
    query = "layers=relu_2&statistics=true"
    answer = httpx.post(f"{server.url}/v1/models/lenet/feature-maps?{query}", content=IMAGE).json()
    dead = answer["layers"][0]["statistics"]["dead"]
    line = page.inner_text("[data-node=relu_2] .layer-silent")
    assert line.startswith(f"Silent on this image: {len(dead)} of 120 units are 0: {dead[0]}, {dead[1]}")
    page.locator("[data-node=relu_2] .layer-silent .link").first.click()
    page.wait_for_selector(f"#arithmetic strong:has-text('relu_2 [{dead[0]}]')")


def test_kernels_are_shown_large_with_their_channels_and_hidden_again(page):
    upload(page, IMAGE)
    page.wait_for_selector("[data-node=conv1].filled")
    page.click("[data-node=conv1] .layer-details summary")
    page.click("text=Show its kernels")
    picture = page.locator("[data-node=conv1] .layer-kernel-scroller img")
    page.wait_for_selector("[data-node=conv1] .layer-kernel-rows span")
    assert page.locator("[data-node=conv1] .layer-kernel-rows span").all_inner_texts() == list("012345")
    box = picture.bounding_box()
    assert box["height"] >= 4 * (6 * 6 - 1)  # weights of 4 pixels and more, and lines between the kernels
    assert box["width"] / box["height"] == pytest.approx(5 / 35, rel=0.02)
    page.click("text=Hide its kernels")
    assert not picture.is_visible()
    page.click("text=Show its kernels")
    assert picture.is_visible()


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
    silent = page.inner_text("[data-node=relu] .layer-silent")
    assert silent.startswith(f"Silent on this image: {len(statistics['dead'])} of 6 channels are 0 everywhere")


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
        labels = page.locator(".unit-references li span:last-of-type").all_inner_texts()
        assert [text.partition(",")[0] for text in labels] == [one["label"] for one in wanted["references"]]
        title = page.inner_text("#references h3")
        assert title == "Channel 7 has its largest values in the outlined places, of 359 test images of digits"
        above, below = (page.locator(one).bounding_box()["y"] for one in ("#references h3", "#arithmetic"))
        assert above < below
        for frame in page.locator(".unit-reference").all():
            picture, outline = (frame.locator(one).bounding_box() for one in ("img", "i"))
            assert picture["x"] - 1 <= outline["x"]
            assert outline["x"] + outline["width"] <= picture["x"] + picture["width"] + 1
        tops = {one.bounding_box()["y"] for one in page.locator(".unit-references .dim").all()}
        assert len(tops) == 1  # the values stand in a row, however long the labels are
        answer = httpx.post(f"{server.url}/v1/models/lenet/feature-maps?layers=relu_2&statistics=true", content=IMAGE)
        dead = answer.json()["layers"][0]["statistics"]["dead"]
        ever = f"{server.url}/v1/models/lenet/layers/relu_2/channels"
        largest = {unit: httpx.get(f"{ever}/{unit}/references").json()["references"][0]["largest"] for unit in dead}
        unit = max(largest, key=largest.get)
        assert largest[unit] > 0
        page.evaluate(f"location.hash = 'layer=relu_2&index={unit}'")
        page.wait_for_selector("#references p:has-text('It is silent (0) on this image, but not on others.')")
        assert (
            page.inner_text("#references h3")
            == f"Unit {unit} has its largest values on these, of 359 test images of digits"
        )
        assert page.locator(".unit-reference i").count() == 0
        page.context.close()


def test_a_class_score_is_a_way_into_the_arithmetic(page, server):
    upload(page, encoded(digit(3)))
    page.locator("#timing:has-text('layers')").wait_for()
    row = page.locator("[data-node='fc.2'] .logits li").nth(4)
    row.locator("button").click()
    page.wait_for_selector("#arithmetic strong:has-text('fc.2 [4]')")
    wanted = httpx.post(f"{server.url}/v1/models/lenet/unit?layer=fc.2&index=4", content=encoded(digit(3))).json()
    assert number(page.inner_text(".unit-served")) == pytest.approx(wanted["served"], rel=1e-5)
    assert number(row.inner_text().split()[-1]) == pytest.approx(wanted["served"], abs=0.006)
