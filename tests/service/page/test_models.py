"""The page with several models at once: of other sizes, classes and origins, and without model.onnx."""

from dataclasses import replace

import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from service.inspection.layers import grid_layer
from tests.conftest import make_spec
from tests.in_process import digit, encoded
from tests.real_server import until
from tests.service.page.conftest import opened, upload

IMAGE = encoded(digit(3))
CLASS = ".why-controls label:nth-child(2) select"
MINUS = "\N{MINUS SIGN}"
GRID = "async (given) => (await import('/page/core/geometry.js')).gridOf(...given)"
GREY = """canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
    .filter((_, index) => index % 4 === 0)"""


@pytest.fixture
def server(zoo):
    """The server of everything in the zoo."""
    return zoo


@pytest.fixture
def show(browser, server):
    """Opens the page of a model, with an image."""
    pages = []

    def start(model, tab="layers", **options):
        pages.append(opened(browser, server, f"#model={model}&tab={tab}", ready="#tabs", **options))
        page = pages[-1].__enter__()
        upload(page, IMAGE)
        page.wait_for_selector(".headline")
        return page

    yield start
    for page in pages:
        page.__exit__(None, None, None)


def ask(server, path):
    return httpx.get(f"{server.url}/v1/models/{path}").raise_for_status().json()


def post(server, path):
    return httpx.post(f"{server.url}/v1/{path}", content=IMAGE).raise_for_status().json()


def number(text):
    return float(text.replace(MINUS, "-"))


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def predicted(server, model):
    """Labels and probabilities in percent, as the API answers."""
    found = post(server, f"classify?model={model}")["results"][0]["predictions"]
    return [(one["label"], pytest.approx(100 * one["probability"], abs=0.06)) for one in found]


def shown(page):
    """The same, of the page."""
    values = [float(text.removesuffix(" %").removeprefix("< ")) for text in texts(page, "#answer li .value")]
    return list(zip(texts(page, "#answer li .label"), values, strict=True))


def wait_for_layers(page, count):
    page.locator(".card.filled").nth(count - 1).wait_for(state="attached")


def check_everything(page, server, model):
    """Every view is that of the model, whichever was there before."""
    names = [node["name"] for node in ask(server, f"{model}/graph")["nodes"]]
    labels = ask(server, f"{model}/labels")["labels"]
    page.click("#tab-layers")
    page.locator(f"[data-node='{names[-1]}']").wait_for()
    wait_for_layers(page, len(names))
    assert texts(page, ".card h3") == names
    keys = page.locator(".map-node").evaluate_all("all => all.map(({dataset}) => dataset.key)")
    assert keys[0] == "input" and set(keys) == {"input", *names}
    answer = predicted(server, model)
    until(lambda: shown(page) == answer)
    page.click("#tab-why")
    explained = post(server, f"models/{model}/explain")["class"]["label"]
    page.wait_for_selector(f".why-heat figcaption:has-text('What speaks for {explained},')")
    options = page.locator(CLASS).locator("option")
    assert options.all_text_contents() == ["the predicted one", *labels]
    page.click("#tab-numbers")
    page.locator("#panel-numbers tbody tr").nth(len(names) - 1).wait_for()
    assert [text.strip("\u200e") for text in texts(page, "#panel-numbers tbody th")] == names
    page.wait_for_selector(".numbers-silent:has-text('ilent')")
    assert page.input_value("#model") == f"{model.replace('%3A', ':')}"
    assert page.is_visible("#photo") and page.inner_text("#given-title") == "digit.png"


def test_another_model_takes_the_place_of_the_first_in_every_view_and_back_returns(show, server):
    page = show("lenet:1")
    check_everything(page, server, "lenet:1")
    page.evaluate("location.hash = 'model=lenet:1&layer=conv1&index=2,4,4'")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
    page.keyboard.press("Escape")
    page.select_option("#model", "imported:1")
    page.wait_for_selector("#facts:has-text('16×16 colour')")  # noqa: RUF001
    assert "model=imported:1" in page.url
    check_everything(page, server, "imported:1")
    while "model=imported" in page.url:
        page.go_back()
    check_everything(page, server, "lenet:1")


def test_an_open_unit_of_the_model_before_is_closed(show):
    page = show("lenet:1")
    page.evaluate("location.hash = 'model=lenet:1&layer=conv1&index=2,4,4'")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
    page.select_option("#model", "stripes:1")  # as the address or a script may, behind the dialog
    page.wait_for_selector("#channel", state="hidden")
    page.wait_for_selector("[data-node='convs.0'].filled")
    assert "layer=" not in page.url
    page.go_back()
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")


def test_versions_of_one_model_are_told_apart(show, server):
    page = show("lenet")
    assert page.input_value("#model") == "lenet:2"  # the newest, as the server has it
    assert shown(page) == predicted(server, "lenet:2") != predicted(server, "lenet:1")
    page.select_option("#model", "lenet:1")
    page.wait_for_selector("#answer:has-text('%')")
    check_everything(page, server, "lenet:1")
    page.evaluate("location.hash = 'model=lenet:1&layer=conv1&index=0,5,5'")
    page.wait_for_selector("#arithmetic strong:has-text('conv1 [0, 5, 5]')")
    first, second = (post(server, f"models/lenet:{version}/unit?layer=conv1&index=0,5,5") for version in (1, 2))
    assert number(page.inner_text(".unit-served")) == pytest.approx(first["served"], rel=1e-5, abs=1e-6)
    assert first["served"] != pytest.approx(second["served"], rel=1e-3)


def test_a_thousand_classes_are_named_and_the_last_can_be_explained(show, server):
    page = show("thousand", viewport={"width": 375, "height": 600})
    layers = ask(server, "thousand/graph")["nodes"]
    wait_for_layers(page, len(layers))
    assert shown(page) == predicted(server, "thousand")
    values = post(server, "models/thousand/feature-maps?layers=fc2")["layers"][0]["values"]
    card = page.locator("[data-node=fc2]")
    assert f"max {max(values):.2f} ({int(np.argmax(values))})" in card.locator(".scale").inner_text()
    canvas = card.locator(".map")
    drawn = np.reshape(canvas.evaluate(GREY), canvas.evaluate("canvas => [canvas.height, canvas.width]"))
    box = canvas.bounding_box()
    assert np.ptp(drawn[:, -4:]) > 0 and box["x"] + box["width"] <= 375
    canvas.focus()
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.wait_for_selector("#readout strong:has-text('999 =')")
    read = page.locator("#readout").bounding_box()
    assert 0 <= read["y"] <= 600 - read["height"]
    assert number(page.inner_text("#readout strong").split("= ")[1]) == pytest.approx(values[999], rel=5e-3)
    page.click("#tab-why")
    page.locator(CLASS).select_option("999")
    page.wait_for_selector(".why-heat figcaption:has-text('What speaks for 999,')")
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for tab in ("why", "layers", "compare", "numbers", "lab"):
            page.click(f"#tab-{tab}")
            page.locator(f"#panel-{tab} *").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_a_layer_of_one_pixel_per_channel_is_drawn(show, server):
    page = show("thousand")
    values = post(server, "models/thousand/feature-maps?layers=pool_2")["layers"][0]["values"]
    page.wait_for_selector("[data-node=pool_2].filled")
    canvas = page.locator("[data-node=pool_2] .map")
    canvas.focus()
    for index in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        shown = page.inner_text("#readout strong")
        assert shown.startswith(f"value {index} =")
        assert number(shown.split("= ")[1]) == pytest.approx(values[index][0][0], rel=5e-3)


def test_a_model_without_onnx_is_classified_and_every_view_says_what_is_missing(show, server):
    page = show("script")
    assert shown(page) == predicted(server, "script")
    assert "exported without model.onnx" in page.inner_text("#provenance")
    page.locator("[data-node=conv1] .map").click(position={"x": 20, "y": 20})
    page.click("[data-node=conv1] .layer-details summary")
    page.wait_for_selector("[data-node=conv1] .layer-details-body:has-text('without model.onnx')")
    for tab, place in {"why": ".why-status", "compare": "[role=status]", "numbers": ".numbers-silent"}.items():
        page.click(f"#tab-{tab}")
        page.wait_for_selector(f"#panel-{tab} {place}:has-text('exported without model.onnx')")
    page.click("#tab-lab")
    page.locator("#panel-lab textarea[name=output]").wait_for(state="attached")
    assert page.locator("#panel-lab textarea[name=output]").input_value()
    assert page.is_hidden("#notice") and page.is_hidden("#channel")
    page.select_option("#model", "lenet:1")
    page.click("#tab-layers")
    page.wait_for_selector("[data-node=conv1].filled")
    assert "without" not in page.inner_text("#panel-layers")


LAYERS = {"imported": "relu", "stripes": "relu", "vit": "encoder.add"}


@pytest.mark.parametrize(("model", "layer"), LAYERS.items())
def test_every_kind_of_model_shows_its_layers_and_units(show, server, model, layer):
    page = show(model)
    layers = ask(server, f"{model}/graph")["nodes"]
    wait_for_layers(page, len(layers))
    assert shown(page) == predicted(server, model)
    assert page.locator(".map-node").count() > 1
    card = page.locator(f"[data-node='{layer}']")
    card.locator(".map").click(position={"x": 5, "y": 5})
    page.wait_for_selector("#arithmetic .unit-served")
    index = page.url.split("index=")[1].split("&")[0]
    unit = post(server, f"models/{model}/unit?layer={layer}&index={index}")
    assert number(page.inner_text(".unit-served")) == pytest.approx(unit["served"], rel=1e-5, abs=1e-6)
    page.wait_for_selector("#channel-readout:has-text('=')")
    said = page.inner_text("#channel-readout").split("= ")[1].split(". ")[0]
    assert number(said) == pytest.approx(unit["served"], rel=5e-3, abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 64)])
def test_shapes_lie_over_the_image_by_the_servers_rules(show, lenet_artifact, height, width):
    page = show("stripes")
    shapes = [[6], [64, 7, 7], [7, 7, 64], [512, 1, 1], [1, 1, 512], [32, 4, 8], [4, 8, 32], [8, 4, 4]]
    shapes += [[tokens, 24] for tokens in (1, 2, 5, 8, 9, 16, 17, 18, 21, 33, 37, 49, 50, 196, 197, 198, 201)]
    node, spec = read_manifest(lenet_artifact).nodes[0], make_spec(height, 3, width=width, resize=(height, width))
    for shape in shapes:
        layer = grid_layer(replace(node, shape=tuple(shape)), spec)
        found = page.evaluate(GRID, [shape, {"height": height, "width": width}])
        wanted = {"axis": 0, "grid": shape[1:], "extra": 0} if len(shape) == 3 else None
        if layer:
            wanted = {"axis": layer.channel_axis - 1, "grid": [*layer.grid], "extra": layer.extra}
        assert found == wanted, shape


def test_tokens_lie_in_the_grid_of_their_patches(show, server):
    page = show("vit")
    page.select_option("#palette", "grey")
    page.wait_for_selector("[data-node='encoder.add'].filled")
    (layer,) = post(server, "models/vit/feature-maps?layers=encoder.add")["layers"]
    values = np.array(layer["values"])  # a class token and 4x4 patches, 8 channels
    assert values.shape == (17, 8)
    canvas = page.locator("[data-node='encoder.add'] .map")
    box = canvas.bounding_box()
    pitch = (box["width"] + 3) / 8
    cell = (pitch - 3) / 4
    for channel, row, column in ((0, 0, 0), (3, 2, 1), (7, 3, 3)):
        canvas.hover(position={"x": channel * pitch + (column + 0.5) * cell, "y": (row + 0.5) * cell})
        text = page.inner_text("#readout strong")
        assert text.startswith(f"channel {channel} · row {row} · column {column} ≈ ")
        wanted = values[1 + 4 * row + column, channel]
        assert number(text.split("≈ ")[1]) == pytest.approx(wanted, abs=np.ptp(values) / 255 + 0.005)
    canvas.click(position={"x": 3 * pitch + 1.5 * cell, "y": 2.5 * cell})
    page.wait_for_selector("#arithmetic strong:has-text('encoder.add [10, 3]')")
    page.locator("#channel-map").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    page.wait_for_selector("#arithmetic strong:has-text('encoder.add [14, 4]')")
    assert f"= {values[14, 4]:.2g}"[:4].replace("-", MINUS) in page.inner_text("#channel-readout")
    page.evaluate("location.hash = 'model=vit&layer=encoder.add&index=0,5'")
    page.wait_for_selector("#channel-readout:has-text('Token 0, which has no place')")
