"""The map of the network on the page, beside the server's graph, numpy and hand-made paths."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torchvision

from export.artifact.manifest import read_manifest
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.pipeline.export import export_checkpoint
from models.graph.layout import layout
from models.graph.node_table import node_table
from models.images.decode import decode_image
from tests.conftest import make_checkpoint, make_spec
from tests.in_process import digit, encoded
from tests.real_server import running_server
from tests.service.page.conftest import upload

IMAGE = encoded(digit(3))
NODE, MOST_PIXELS = ".map-node", 220
GREY = """canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
    .filter((_, index) => index % 4 === 0)"""


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A small ResNet-20, exported: blocks of two depths, skips, and branches where the size changes."""
    folder = tmp_path_factory.mktemp("resnet")
    checkpoint = make_checkpoint(folder / "resnet20", model="resnet20", size=8, channels=3, count=9)
    return export_checkpoint(checkpoint, out=folder / "artifacts")


@pytest.fixture(scope="module")
def server(resnet, lenet_artifact, tmp_path_factory):
    """A server of both; the page starts with the ResNet."""
    root = resnet.parent.parent
    shutil.copytree(lenet_artifact.parent, root / "lenet")
    with running_server(root, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


def keys(page):
    return [each.get_attribute("data-key") for each in page.locator(NODE).all()]


def places(page):
    """Column and lane of every node of the map."""
    found = page.locator(NODE).evaluate_all("all => all.map(({dataset: {key, row, lane}}) => [key, +row, +lane])")
    return {key: (row, lane) for key, row, lane in found}


def node(page, key):
    return page.locator(f'{NODE}[data-key="{key}"]')


def show(page, model):
    page.select_option("#model", f"{model}:1")
    page.locator(f"#map {NODE}").first.wait_for()


def unfold_all(page):
    page.click("#map >> text=Unfold all")


def serve_graph(page, network, size):
    """Shows a network that was never exported: its node table in the place of the server's."""
    nodes = node_table(network.eval(), make_spec(size, 3))
    rows = [asdict(each) | asdict(place) for each, place in zip(nodes, layout(nodes), strict=True)]
    body = json.dumps({"input": {"height": size, "width": size, "mode": "RGB"}, "nodes": rows})
    page.route("**/graph", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.reload()
    page.locator(NODE).first.wait_for()
    return nodes


def reach(start, neighbours):
    """A node and whatever can be reached from it."""
    found, waiting = set(), [start]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += neighbours.get(key, [])
    return found


def test_lenet_shows_every_layer(page, lenet_artifact):
    show(page, "lenet")
    nodes = read_manifest(lenet_artifact).nodes
    expected = {each.name: (place.row, place.lane) for each, place in zip(nodes, layout(nodes), strict=True)}
    assert places(page) == {"input": (0, 0), **expected}
    about = node(page, "conv2").get_attribute("aria-label")
    assert about == "conv2, Conv2d, 16 \N{MULTIPLICATION SIGN} 10 \N{MULTIPLICATION SIGN} 10, receptive field 14×14"  # noqa: RUF001
    assert page.locator("#map").bounding_box()["height"] <= MOST_PIXELS
    assert page.complaints == []


def test_a_larger_network_fits_with_its_blocks_folded_and_unfolds_to_the_servers_layout(page, resnet):
    nodes = read_manifest(resnet).nodes
    blocks = [f"layer{stage}.{block}/" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert keys(page) == ["input", "conv1", "bn1", "relu", *blocks, "avgpool", "flatten", "fc"]
    assert page.locator(".map-scroller").evaluate("box => box.scrollWidth <= box.clientWidth")
    unfold_all(page)
    expected = {each.name: (place.row, place.lane) for each, place in zip(nodes, layout(nodes), strict=True)}
    found = places(page)
    assert found == {"input": (0, 0), **expected}
    assert len(set(found.values())) == len(found)
    assert max(lane for _, lane in found.values()) > 0
    page.click("#map >> text=Fit")
    assert len(keys(page)) == 16


@pytest.mark.parametrize(("name", "size"), [("resnet50", 32), ("googlenet", 32)])
@pytest.mark.acceptance
def test_networks_of_torchvision_fit_on_a_screen(page, name, size):
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):  # its weights do not matter, and take seconds
        network = getattr(torchvision.models, name)(weights=None, **options)
    network = network.to_empty(device="cpu")
    nodes = serve_graph(page, network, size)
    assert page.locator(".map-scroller").evaluate("box => box.scrollWidth <= box.clientWidth")
    shown = places(page)
    assert len(set(shown.values())) == len(shown) < len(nodes)
    if name == "resnet50":
        assert {"conv1", "layer1.0/", "layer3.5/", "fc"} <= set(shown)
    if name == "googlenet":  # its four branches are there
        assert {f"inception4a.branch{branch}/" for branch in (1, 2, 3, 4)} <= set(shown)
        assert {lane for _, lane in shown.values()} == {0, 1, 2, 3}
    assert page.locator("#map").bounding_box()["height"] <= MOST_PIXELS
    unfold_all(page)
    assert len(keys(page)) == len(nodes) + 1
    assert page.locator("#map").bounding_box()["height"] <= MOST_PIXELS
    assert page.complaints == []


def test_a_module_unfolds_by_click_and_folds_by_its_bracket_or_backspace(page, resnet):
    whole = keys(page)
    inside = [each.name for each in read_manifest(resnet).nodes if each.name.startswith("layer2.0.")]
    node(page, "layer2.0/").click()
    assert set(inside) <= set(keys(page))
    assert "layer2.0/" not in keys(page)
    page.locator(".map-bracket[data-path='layer2.0']").click()
    assert keys(page) == whole
    assert page.evaluate("document.activeElement.dataset.key") == "layer2.0/"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.key") == inside[0]
    page.keyboard.press("Backspace")
    assert keys(page) == whole
    page.keyboard.press("Backspace")
    assert "layer2/" in keys(page)


def test_hovering_lights_all_paths_through_a_node_and_says_what_it_is(page, resnet):
    unfold_all(page)
    nodes = read_manifest(resnet).nodes
    parents = {each.name: list(each.parents) for each in nodes}
    children = {}
    for each in nodes:
        for parent in each.parents:
            children.setdefault(parent, []).append(each.name)
    node(page, "layer2.0.conv2").hover()
    lit = page.locator(f"{NODE}.on").evaluate_all("all => all.map(({dataset}) => dataset.key)")
    expected = reach("layer2.0.conv2", parents) | reach("layer2.0.conv2", children)
    assert set(lit) == expected < {"input", *parents}
    strengths = page.locator(NODE).evaluate_all("all => all.map(each => +getComputedStyle(each).opacity)")
    assert strengths.count(1) == len(expected)
    drawn = page.locator("#map .map-lit").get_attribute("d").count("M")
    before, after = reach("layer2.0.conv2", parents), reach("layer2.0.conv2", children)
    edges = [(parent, child) for child, all_parents in parents.items() for parent in all_parents]
    assert drawn == sum({*edge} <= before or {*edge} <= after for edge in edges)
    caption = page.locator(".map-head p").inner_text()
    assert caption.startswith("layer2.0.conv2 · Conv2d · 32 × 4 × 4 · receptive field 21×21")  # noqa: RUF001
    page.mouse.move(5, 5)
    assert page.locator(f"{NODE}.on").count() == 0


def test_the_keyboard_reaches_every_node_and_enter_goes_to_the_layer(page, lenet_artifact):
    show(page, "lenet")
    assert page.locator(f"{NODE}[tabindex='0']").count() == 1
    node(page, "input").focus()
    visited = []
    for _ in read_manifest(lenet_artifact).nodes:
        page.keyboard.press("ArrowRight")
        visited.append(page.evaluate("document.activeElement.dataset.key"))
    assert visited == [each.name for each in read_manifest(lenet_artifact).nodes]
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.key") == "input"
    node(page, "pool_1").focus()
    page.keyboard.press("Enter")
    page.locator("[data-node=pool_1] .map:focus").wait_for()
    page.locator(f"{NODE}[data-key=pool_1][aria-current=true]").wait_for()


def test_the_filter_of_the_layers_also_marks_the_map(page):
    page.fill("#filter", "layer3.1.conv2")
    found = page.locator(f"{NODE}.found").evaluate_all("all => all.map(({dataset}) => dataset.key)")
    assert found == ["layer3.1/"]
    assert page.locator(".map-head p").inner_text().startswith("1 of ")
    page.fill("#filter", "")
    assert page.locator(f"{NODE}.found").count() == 0


def test_a_tile_is_the_layers_strongest_channel(page, lenet_artifact):
    show(page, "lenet")
    page.select_option("#palette", "grey")
    assert page.locator(f"{NODE} canvas:visible").count() == 0
    upload(page, IMAGE)
    page.locator(f"{NODE} canvas:visible").nth(len(read_manifest(lenet_artifact).nodes)).wait_for()
    manifest = read_manifest(lenet_artifact)
    nodes = [each for each in manifest.nodes if each.name in ("conv1", "conv2", "pool_1")]
    taps = OnnxFeatureExtractor(lenet_artifact / "model.onnx", nodes)
    values = taps.run(decode_image(IMAGE, manifest.input)[np.newaxis], [each.value for each in nodes])[1]
    for each, (value,) in zip(nodes, values, strict=True):
        strongest = value[np.linalg.norm(value.reshape(len(value), -1), axis=1).argmax()]
        grey = 255 * (strongest - value.min()) / np.ptp(value)
        drawn = node(page, each.name).locator("canvas").evaluate(GREY)
        assert np.reshape(drawn, strongest.shape) == pytest.approx(grey, abs=2.1)  # two roundings
    page.click("#clear")
    page.locator(f"{NODE} canvas:visible").first.wait_for(state="hidden")
    assert page.complaints == []


def test_zooming_enlarges_the_tiles_and_fit_shows_the_whole(page):
    def across():
        return page.locator(NODE).first.bounding_box()["width"]

    whole = across()
    page.click("#map [data-act=in]")
    assert across() > whole
    assert page.locator(".map-scroller").evaluate("box => box.scrollWidth > box.clientWidth")
    assert page.locator("#map").bounding_box()["height"] <= MOST_PIXELS
    page.locator(".map-scroller").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, 2000)
    page.keyboard.up("Control")
    assert across() == pytest.approx(whole)


def zoomed(page, times):
    """The scrolling frame of the whole map, unfolded and enlarged."""
    unfold_all(page)
    for _ in range(times):
        page.click("#map [data-act=in]")
    return page.locator(".map-scroller")


def test_dragging_pans_both_ways_and_selects_nothing(page):
    scroller = zoomed(page, 3)
    scroller.evaluate("box => box.scrollTo({left: 200, top: 10, behavior: 'instant'})")
    box = scroller.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 70, y - 30, steps=4)
    page.mouse.up()
    assert scroller.evaluate("box => [box.scrollLeft, box.scrollTop]") == pytest.approx([270, 40], abs=1)
    assert page.evaluate("getSelection().toString()") == ""
    page.locator(NODE).last.evaluate("node => node.scrollIntoView()")
    lowest = page.locator(NODE).evaluate_all("all => Math.max(...all.map(({dataset}) => dataset.lane))")
    scroller.evaluate("box => box.scrollTo({top: box.scrollHeight, behavior: 'instant'})")
    end = page.locator(f"{NODE}[data-lane='{lowest}']").first.bounding_box()
    assert end["y"] + end["height"] <= box["y"] + box["height"]


def test_zooming_keeps_what_is_in_the_middle(page):
    scroller = zoomed(page, 2)
    scroller.evaluate("box => box.scrollTo({left: box.scrollWidth / 2, top: 30, behavior: 'instant'})")
    frame = scroller.bounding_box()

    def away(key):
        box = node(page, key).bounding_box()
        sides = (("x", "width"), ("y", "height"))
        return [box[at] + box[size] / 2 - frame[at] - frame[size] / 2 for at, size in sides]

    nearest = min(keys(page), key=lambda key: np.hypot(*away(key)))
    before = away(nearest)
    page.click("#map [data-act=in]")
    assert away(nearest) == pytest.approx([1.5 * far for far in before], abs=10)


def test_the_frame_stays_on_the_chosen_layer_until_the_reader_scrolls(page):
    show(page, "lenet")
    upload(page, IMAGE)
    page.locator("[data-node='fc.2'].filled").wait_for()
    current = page.locator(f"{NODE}[aria-current=true]")
    node(page, "relu_3").click()  # the page ends before it can be at the top
    page.wait_for_timeout(1000)
    assert [each.get_attribute("data-key") for each in current.all()] == ["relu_3"]
    page.mouse.move(900, 600)
    page.mouse.wheel(0, -1500)
    page.locator(f"{NODE}[aria-current=true]:not([data-key=relu_3])").wait_for()


def test_after_a_jump_by_keyboard_the_value_stands_at_its_pixel(page):
    show(page, "lenet")
    upload(page, IMAGE)
    page.locator("[data-node=pool_1].filled").wait_for()
    node(page, "pool_1").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    drawn, readout = (page.locator(one).bounding_box() for one in ("[data-node=pool_1] .map", "#readout"))
    zoom = (drawn["height"] - 3) / 10  # two rows of tiles with five values each
    assert readout["x"] - drawn["x"] == pytest.approx(2 * zoom + 16, abs=3)
    assert readout["y"] - drawn["y"] == pytest.approx(2 * zoom + 20, abs=3)


def test_on_a_phone_the_map_scrolls_sideways_and_the_page_does_not(page):
    page.set_viewport_size({"width": 375, "height": 740})
    page.reload()
    unfold_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".map-scroller").evaluate("box => box.scrollWidth > box.clientWidth")
    assert page.locator("#map").bounding_box()["height"] <= MOST_PIXELS


def test_without_an_onnx_file_the_map_says_why_it_has_no_pictures(page):
    def remove(route):
        answer = route.fetch()
        models = answer.json()
        for each in models["models"]:
            each["inspectable"] = False
        route.fulfill(json=models)

    page.route("**/v1/models", remove)
    page.reload()
    page.locator(NODE).first.wait_for()
    assert "no pictures without model.onnx" in page.locator(".map-head p").inner_text()
