"""The view Compare, beside the server's /compare and values of the engine."""

import re
import shutil

import httpx
import numpy as np
import pytest
import torch

from export.artifact.manifest import read_manifest
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.pipeline.export import export_checkpoint
from models.checkpoint.directory import load_checkpoint, save_checkpoint
from models.images.decode import decode_image
from tests.in_process import digit, encoded
from tests.real_server import running_server
from tests.service.page.conftest import upload

FIRST, SECOND = (encoded(digit(index)) for index in (3, 1))
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
# In the page: the colour of a point of a canvas, in parts of its width and height.
COLOUR = """(canvas, [x, y]) => [...canvas.getContext('2d')
    .getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data.slice(0, 3)]"""


@pytest.fixture(scope="module")
def server(lenet_checkpoint, lenet_artifact, tmp_path_factory):
    """LeNet, and a version with other weights from its second convolution on."""
    root, runs = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("runs")
    shutil.copytree(lenet_artifact.parent, root / "lenet")
    changed = shutil.copytree(lenet_checkpoint, runs / "lenet")
    checkpoint = load_checkpoint(changed)
    with torch.no_grad():
        checkpoint.network.conv2.weight[3] += 0.5
    save_checkpoint(changed, checkpoint.config, checkpoint.network.state_dict())
    export_checkpoint(changed, out=root, name="lenet", formats=("onnx",))
    with running_server(root, runs / "server.log") as running:
        yield running


@pytest.fixture
def view(page):
    """The view of the first version with an image, and no second one."""
    page.evaluate("location.hash = 'model=lenet:1&tab=compare'")
    upload(page, FIRST)
    page.locator("#panel-compare button:enabled", has_text="Keep").wait_for()
    return page


def number(text):
    return None if text == DASH else float(text.replace(MINUS, "-"))


def says(page, text):
    page.wait_for_selector(f"#panel-compare [role=status]:has-text('{text}')")


def take_both(page):
    """The first image as A, the second as B."""
    page.click("text=Keep this image as A")
    says(page, "A is kept")
    upload(page, SECOND, "second.png")
    says(page, "begins")


def rows(page):
    return [row.locator("th, td").all_inner_texts() for row in page.locator(".compare-layers tbody tr").all()]


def agree(shown, layers):
    """Rows of the table have the server's numbers."""
    assert [row[0] for row in shown] == [layer["layer"] for layer in layers]
    for row, layer in zip(shown, layers, strict=True):
        for text, value in ((row[1], layer["relative"]), (row[3], layer["cosine"])):
            assert number(text) == (None if value is None else pytest.approx(value, rel=0.01, abs=1e-6))


def values_of(artifact, data, name):
    """The engine's value of a layer."""
    manifest = read_manifest(artifact)
    node = next(node for node in manifest.nodes if node.name == name)
    extractor = OnnxFeatureExtractor(artifact / "model.onnx", [node])
    return extractor.run(decode_image(data, manifest.input)[np.newaxis], [node.value])[1][0][0]


def test_an_image_and_itself_are_exactly_equal(view):
    says(view, "Keep an image as A")
    view.click("text=Keep this image as A")
    says(view, "A is kept. Now draw, choose or drop the second image.")
    view.get_by_alt_text("Image A").wait_for()
    assert not view.locator(".compare-layers").is_visible()
    assert not [url for url in view.requests if "/compare?" in url]
    upload(view, FIRST, "same.png")
    says(view, "Exactly equal: all 12 layers have the same values.")
    assert {tuple(row[1::2]) for row in rows(view)} == {("0", "1")}
    assert view.locator(".compare-maps figcaption").last.inner_text().startswith("B")
    assert view.locator(".compare-maps canvas").last.get_attribute("aria-label").endswith("value is 0")


def test_two_images_have_their_predictions_and_differences_beside_each_other(view, server):
    take_both(view)
    files = [("images", (name, data)) for name, data in (("a.png", FIRST), ("b.png", SECOND))]
    answer = httpx.post(f"{server.url}/v1/models/lenet:1/compare", files=files).json()
    agree(rows(view), answer["layers"])
    largest, last = max(answer["layers"], key=lambda layer: layer["relative"]), answer["layers"][-1]
    ends = f", and {last['relative']:.3g} in the last layer, {last['layer']}" if last is not largest else ""
    where = f"{'' if ends else 'the last layer, '}{largest['layer']}: {largest['relative']:.3g}"
    says(view, f"The difference begins in {answer['begins']}. It is largest in {where}{ends}.")
    assert view.locator(".compare-pair h2").all_inner_texts() == ["A: digit.png", "B: second.png"]
    assert "0: equal; 1: as large as A itself" in view.inner_text(".compare-layers caption")
    heads = view.locator(".compare-pair .headline strong").all_inner_texts()
    assert heads == [model["predictions"][0]["label"] for model in answer["models"]]
    most = max(layer["relative"] for layer in answer["layers"])
    tracks = view.locator(".compare-layers .track").all()
    widths = [[each.bounding_box()["width"] for each in (track.locator(".bar"), track)] for track in tracks]
    shares = [layer["relative"] / most for layer in answer["layers"]]
    assert [bar / track for bar, track in widths] == pytest.approx(shares, abs=0.01)


def test_the_maps_show_the_channels_that_differ_most_on_a_scale_around_zero(view, lenet_artifact):
    take_both(view)
    view.click(".compare-layers >> text='conv2'")
    view.wait_for_selector(".compare-maps h2:has-text('conv2')")
    assert "at=conv2" in view.url
    one, other = (values_of(lenet_artifact, data, "conv2") for data in (FIRST, SECOND))
    difference = other - one
    order = np.argsort(-np.abs(difference).sum(axis=(1, 2)))[:12]
    about = view.locator(".compare-maps p").inner_text()
    assert [int(channel) for channel in re.findall(r"\d+", about)] == list(order)
    captions = view.locator(".compare-maps figcaption").all_inner_texts()
    reaches = [number(caption.split()[-1]) for caption in captions]
    common = max(np.abs(value[order]).max() for value in (one, other))
    assert reaches == pytest.approx([common, common, np.abs(difference[order]).max()], rel=0.01)
    row, column = np.unravel_index(np.abs(difference[order[0]]).argmax(), (10, 10))
    canvas = view.locator(".compare-maps canvas").last
    box = canvas.bounding_box()
    tile = (box["width"] + 3) / round(box["width"] / (box["height"] / 3 if len(order) > 8 else box["height"] / 2)) - 3
    place = [(column + 0.5) * tile / 10 / box["width"], (row + 0.5) * tile / 10 / box["height"]]
    red, _, blue = canvas.evaluate(COLOUR, place)
    assert (red > blue) == (difference[order[0], row, column] > 0)


def test_two_versions_differ_from_the_layer_that_was_changed(view, server):
    view.get_by_label("Compare with").select_option("lenet:2")
    says(view, "The difference begins in conv2.")
    assert "with=lenet:2" in view.url
    answer = httpx.post(f"{server.url}/v1/models/lenet:1/compare?with=lenet:2", content=FIRST).json()
    agree(rows(view), answer["layers"])
    view.wait_for_selector(".compare-maps h2:has-text('conv2')")  # where it begins
    assert not view.get_by_text("Keep this image as A").is_visible()
    titles = view.locator(".compare-pair h2").all_inner_texts()
    assert [title[-1] for title in titles] == ["1", "2"]


def test_layers_without_their_like_are_named(view):
    def tear(route):
        answer = route.fetch().json()
        names = [layer["layer"] for layer in answer["layers"]]
        answer |= {"layers": [], "begins": None}
        answer["models"][0]["unmatched"], answer["models"][1]["unmatched"] = names, ["head.7", "fc.2"]
        route.fulfill(json=answer)

    view.route("**/compare?*", tear)
    view.get_by_label("Compare with").select_option("lenet:2")
    says(view, "No layer of A has its like in B.")
    texts = view.locator("#panel-compare .dim p").all_inner_texts()
    assert [text.split(": ")[1].rstrip(".").split(", ") for text in texts] == [
        ["conv1", "relu", "pool", "conv2", "relu_1", "pool_1", "flatten", "fc.0", "relu_2", "fc.1", "relu_3", "fc.2"],
        ["head.7", "fc.2"],
    ]
    assert not view.locator(".compare-maps").is_visible()
    assert not view.locator(".compare-layers").is_visible()


def test_a_server_that_fails_can_be_asked_again(view):
    view.refusals = True
    view.route(
        "**/compare?*", lambda route: route.fulfill(status=503, json={"error": {"code": "x", "message": "busy"}})
    )
    view.get_by_label("Compare with").select_option("lenet:2")
    view.wait_for_selector("#notice-text:has-text('busy')")
    view.unroute("**/compare?*")
    view.click("#notice-retry")
    says(view, "The difference begins in conv2.")


def test_many_layers_are_asked_for_in_parts(view, lenet_artifact):
    def enlarge(route):
        graph = route.fetch().json()
        for node in graph["nodes"]:
            if node["name"] in ("fc.0", "fc.1"):
                node["shape"] = [2_000_000]
        route.fulfill(json=graph)

    view.route("**/graph", enlarge)
    view.reload()
    view.locator("#provenance:not(:empty)").wait_for(state="attached")
    upload(view, FIRST)
    view.locator("#panel-compare button:enabled", has_text="Keep").wait_for()
    take_both(view)
    asked = [url for url in view.requests if "/compare?" in url]
    assert len(asked) == 2
    assert [row[0] for row in rows(view)] == [node.name for node in read_manifest(lenet_artifact).nodes]


def test_without_an_image_it_says_what_to_do_and_asks_nothing(page):
    page.click("#tab-compare")
    says(page, "choose an image")
    page.click("#tab-layers")
    page.evaluate("location.hash = 'model=lenet:1&with=lenet:2'")
    upload(page, FIRST)
    page.wait_for_selector("#timing:has-text('layers')")
    assert not [url for url in page.requests if "/compare?" in url]
    page.click("#tab-compare")
    says(page, "conv2")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.complaints == []
