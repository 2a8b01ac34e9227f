"""The view Why, beside the server's /explain and the same arithmetic in numpy."""

import json
import re

import httpx
import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from models.images.decode import decode_image
from tests.in_process import digit, encoded
from tests.service.page.conftest import upload

IMAGE = encoded(digit(3))
MINUS = "\N{MINUS SIGN}"
SIDE = 28
# In the page: red, green and blue in the middle of each of the network's pixels.
CENTRES = """(canvas, side) => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const at = index => Math.floor((index + 0.5) * canvas.width / side);
    return [...Array(side * side).keys()].map(index => {
        const start = 4 * (at(Math.floor(index / side)) * canvas.width + at(index % side));
        return [...pixels.data.slice(start, start + 3)];
    });
}"""


def explain(server, **query):
    """What the server says to the same question."""
    answer = httpx.post(f"{server.url}/v1/models/lenet/explain", params=query, content=IMAGE, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def show(page, address=""):
    """Opens the view with the image, and waits for both maps."""
    page.evaluate(f"location.hash = 'tab=why{address}'")
    upload(page, IMAGE)
    page.locator(".why-heat:not(.stale)").nth(1).wait_for()


def number(text):
    return float(text.replace(MINUS, "-"))


@pytest.fixture
def events(page):
    """A way to answer /explain in the server's place, with server-sent events."""

    def answer(*named):
        body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in named)
        page.route("**/explain?*", lambda route: route.fulfill(content_type="text/event-stream", body=body))

    return answer


@pytest.mark.parametrize(("method", "signed"), [("occlusion", True), ("occlusion", False), ("rise", True)])
def test_the_map_lies_over_the_image_in_two_hues(page, server, lenet_artifact, method, signed):
    show(page, f"&method={method}")
    page.locator("#panel-why").get_by_label("Opacity").fill("100")
    page.locator("#panel-why").get_by_label("Show").select_option("for and against" if signed else "only for")
    answer = explain(server, method=method)
    values = np.array(answer["map"]["values"])
    low, high = answer["minimum"], answer["maximum"]
    reach = max(high, -low) if signed else high
    if low > 0:
        share = (values - low) / (high - low)
    else:
        share = np.where(values > 0, values, -values if signed else 0) / reach
    spec = read_manifest(lenet_artifact).input
    grey = 127.5 + 0.6 * (decode_image(IMAGE, spec)[..., :1].astype(float) - 127.5)
    hues = np.where(values[..., np.newaxis] < 0, (0x3B, 0x7F, 0xB5), (0xC2, 0x50, 0x2F))
    expected = grey + share[..., np.newaxis] * (hues - grey)
    drawn = np.array(page.locator(".why-heat canvas").first.evaluate(CENTRES, SIDE)).reshape(SIDE, SIDE, 3)
    assert np.abs(drawn - expected).max() <= 3
    against, speaks = re.findall(rf"[{MINUS}\d.e]+", page.locator(".why-heat div").first.inner_text())
    assert number(speaks) == pytest.approx(max(reach, 0), rel=0.01)
    assert number(against) == pytest.approx(-reach if signed and low < 0 else max(0, low), rel=0.01)


def test_the_arrow_keys_read_values_from_the_highest_place_on(page, server):
    show(page, "&method=occlusion")
    values = np.array(explain(server, method="occlusion")["map"]["values"])
    row, column = np.unravel_index(values.argmax(), values.shape)
    step, key = (1, "ArrowDown") if row + 1 < SIDE else (-1, "ArrowUp")
    page.locator(".why-heat canvas").first.focus()
    page.keyboard.press(key)
    text = page.locator(".why-heat p").first.inner_text()
    assert text.startswith(f"row {row + step}, column {column}: ")
    assert number(text.rpartition(" ")[2]) == pytest.approx(values[row + step, column], rel=0.01)


def test_the_runner_up_has_a_map_beside_it_and_the_share_in_common(page, server):
    show(page, "&method=occlusion")
    first = explain(server, method="occlusion")
    second = first["predictions"][1]["label"]
    answers = [first, explain(server, method="occlusion", **{"class": second})]
    positive = [np.maximum(np.array(answer["map"]["values"]), 0) for answer in answers]
    shared = np.minimum(*(each / each.sum() for each in positive)).sum()
    titles = page.locator(".why-heat figcaption").all_inner_texts()
    assert [title.split(",")[0] for title in titles] == [
        f"What speaks for {answer['class']['label']}" for answer in answers
    ]
    assert f"{100 * shared:.1f} % of it lies where" in page.locator(".why-heat p").last.inner_text()


def test_a_bar_explains_another_class_and_the_address_keeps_it(page, server):
    show(page, "&method=occlusion")
    predictions = explain(server)["predictions"]
    bars = page.locator(".why-bars button")
    assert bars.count() == 5
    assert bars.first.get_attribute("aria-pressed") == "true"
    third = predictions[2]["label"]
    bars.nth(2).click()
    page.wait_for_selector(f".why-heat:first-child figcaption:has-text('for {third},')")
    page.wait_for_selector(f".why-heat:not(.stale) >> nth=1 >> text=for {predictions[0]['label']},")
    assert f"class={third}" in page.url
    assert bars.nth(2).evaluate("bar => bar === document.activeElement")
    page.go_back()
    page.wait_for_selector(f".why-heat:first-child figcaption:has-text('for {predictions[0]['label']},')")


def test_the_slider_walks_along_the_curves_and_covers_places(page, server, lenet_artifact):
    show(page, "&method=occlusion")
    slider = page.locator("#panel-why").get_by_label("Cover the highest places")
    slider.wait_for()
    answer = explain(server, method="occlusion", evaluate="true")
    trust, values = answer["trust"], np.array(answer["map"]["values"])
    slider.fill("10")
    text = page.locator(".why-side [aria-live]").inner_text()
    shown = [float(part) for part in re.findall(r"([\d.]+) %", text)]
    wanted = [100 * trust[name][10] for name in ("fractions", "deletion", "insertion")]
    assert shown == pytest.approx(wanted, abs=0.11)
    count = round(trust["fractions"][10] * values.size)
    covered = np.argsort(-values.ravel(), kind="stable")[:count]
    drawn = np.array(page.locator(".why-heat canvas").first.evaluate(CENTRES, SIDE))
    mean = round(255 * read_manifest(lenet_artifact).input.mean[0])
    assert np.abs(drawn[covered] - mean).max() <= 1
    areas = " ".join(page.locator(".why-side div > p").all_inner_texts())
    assert [float(area) for area in re.findall(r"area ([\d.]+)", areas)] == pytest.approx(
        [trust["deletion_area"], trust["insertion_area"]], rel=0.01
    )
    fifth = next(at for at, part in enumerate(trust["fractions"]) if part >= 0.2)
    half = trust["deletion"][0] / 2
    passed = [trust["deletion"][fifth] < half, trust["insertion"][fifth] > half >= trust["insertion"][0]]
    map_verdict = page.locator(".why-verdict").last.inner_text()
    assert map_verdict.startswith(["Hardly", "Partly", "Largely"][sum(passed)] + ": without the fifth")
    ends = [100 * trust[name][at] for name in ("deletion", "insertion") for at in (0, fifth)]
    assert [float(part) for part in re.findall(r"([\d.]+) %", map_verdict)] == pytest.approx(ends, abs=0.06)


def test_the_slider_moves_nothing_beneath_it(page):
    show(page, "&method=occlusion")
    slider = page.locator("#panel-why").get_by_label("Cover the highest places")
    slider.wait_for()
    tops = set()
    for step in ("0", "7", "50"):
        slider.fill(step)
        tops.add(page.locator(".why-about").evaluate("about => about.getBoundingClientRect().top + scrollY"))
    assert len(tops) == 1
    assert page.inner_text(".why-running") == ""


@pytest.mark.parametrize(
    ("probability", "metrics", "advice"),
    [
        (0.278, {"accuracy": 0.5}, "Do not rely on it."),
        (0.99, {"accuracy": 0.5}, "Do not rely on it."),
        (0.99, {"accuracy": 0.8}, "Rely on it with care."),
        (0.99, {"accuracy": 0.8, "calibration_error": 0.01}, "Nothing here speaks against it."),
        (0.99, {"accuracy": 0.95}, "Nothing here speaks against it."),
        (0.99, {}, "Rely on it with care."),
    ],
)
def test_the_answer_is_judged_by_the_model_and_its_own_probability(page, server, events, probability, metrics, advice):
    def measure(route):
        answer = route.fetch().json()
        answer["models"][0]["metrics"] = {"test": metrics}
        route.fulfill(json=answer)

    page.route("**/v1/models", measure)
    page.reload()
    page.wait_for_selector(".card")
    answer = explain(server, method="occlusion")
    answer["predictions"][0]["probability"] = probability
    answer |= {"references": None, "normality": []}
    events(("result", answer))
    show(page, "&method=occlusion")
    assert page.locator(".why-side h2").all_inner_texts()[1] == "Can the answer be trusted?"
    verdict = page.locator(".why-answer .why-verdict").inner_text()
    assert verdict.endswith(f"{100 * probability:.1f} %. {advice}")
    accuracy = metrics.get("accuracy")
    assert (f"right on {100 * accuracy:.1f} %" if accuracy else "was not measured") in verdict
    assert page.locator(".why-odds").is_visible() == ("calibration_error" in metrics)


def test_the_table_has_every_method_or_the_reason_why_not(page, server):
    show(page)
    page.locator(".why-side svg").wait_for()
    page.click("text=Compare all methods")
    page.locator(".why-table").wait_for()
    rows = page.locator(".why-table tbody tr").all()
    methods = explain(server, method="all")["methods"]
    assert len(rows) == len(methods)
    for row, method in zip(rows, methods, strict=True):
        cells = row.locator("td").all_inner_texts()
        if "reason" in method:
            assert cells == [method["reason"]]
        else:
            areas = [method["trust"][name] for name in ("deletion_area", "insertion_area")]
            assert [float(cell) for cell in cells[1:3]] == pytest.approx(areas, rel=0.01)
    page.locator(".why-table button", has_text="Occlusion").click()
    page.wait_for_selector(".why-does:has-text('Occlusion shows')")
    assert "method=occlusion" in page.url


def test_a_method_that_does_not_work_shows_the_reason(page, server):
    page.evaluate("location.hash = 'tab=why&method=cam'")
    upload(page, IMAGE)
    page.wait_for_selector(".why-status:has-text('CAM needs global average pooling')")
    assert not page.locator(".why-result").is_visible()
    page.locator("#panel-why").get_by_label("Method").select_option("eigencam")
    page.wait_for_selector(".why-does:has-text('Eigen-CAM')")
    assert page.locator(".why-heat:visible").count() == 1  # it is the same for every class


def test_a_map_without_evidence_says_so(page, server, events):
    answer = explain(server, method="occlusion")
    answer["map"]["values"] = np.full((SIDE, SIDE), -1.5).tolist()
    answer |= {"empty": True, "minimum": -1.5, "maximum": -1.5}
    events(("result", answer))
    show(page, "&method=occlusion")
    notes = page.locator(".why-heat p").all_inner_texts()
    assert notes[1] == f"No place speaks for {answer['class']['label']}: the map is the same everywhere."
    assert not page.locator(".why-side svg").is_visible()


@pytest.mark.parametrize(
    ("unusual", "sentence"),
    [(True, "Unusual beside the 1,000 test images of digits in 2 of 2"), (False, "Normal beside")],
)
def test_reference_images_say_how_unusual_the_image_is(page, server, events, unusual, sentence):
    answer = explain(server, method="occlusion")
    answer["references"] = {"name": "digits", "split": "test", "images": 1000}
    answer["normality"] = [
        {"layer": name, "distance": distance, "limit": 1.5, "unusual": unusual}
        for name, distance in [("conv1", 2), ("pool", 9)]
    ]
    events(("result", answer))
    show(page, "&method=occlusion")
    text = page.locator(".why-normal").inner_text()
    assert sentence in text
    assert ("the image is unlike the reference images" in page.inner_text(".why-verdict")) == unusual


def test_progress_is_shown_and_an_error_in_the_stream_can_be_tried_again(page, events):
    events(
        ("progress", {"method": "rise", "done": 64, "total": 1000}),
        ("error", {"error": {"code": "queue_full", "message": "too many inspections"}}),
    )
    page.evaluate("location.hash = 'tab=why'")
    page.locator(".why-running").wait_for(state="attached")
    page.evaluate("""() => {
        window.shown = [];
        const line = document.querySelector('.why-running');
        new MutationObserver(() => window.shown.push(line.textContent)).observe(line, {childList: true});
    }""")
    page.evaluate("location.hash = 'tab=why&method=rise'")
    upload(page, IMAGE)
    page.wait_for_selector(".why-status:has-text('too many inspections')")
    assert "RISE: 64 of 1000 runs of the network" in page.evaluate("window.shown")
    page.unroute("**/explain?*")
    page.click("#panel-why >> text=Try again")
    page.locator(".why-heat:not(.stale)").nth(1).wait_for()


def test_a_request_ends_with_the_choice_and_with_the_tab(page):
    page.route("**/explain?*", lambda route: None)  # it never answers
    page.evaluate("location.hash = 'tab=why&method=rise'")
    with page.expect_request("**/explain?method=rise"):
        upload(page, IMAGE)
    with page.expect_event("requestfailed") as failed, page.expect_request("**/explain?method=occlusion"):
        page.locator("#panel-why").get_by_label("Method").select_option("occlusion")
    assert "method=rise" in failed.value.url
    with page.expect_event("requestfailed") as failed:
        page.click("#tab-layers")
    assert "method=occlusion" in failed.value.url
    assert page.complaints == []


def test_without_an_image_it_says_what_to_do(page):
    page.click("#tab-why")
    page.wait_for_selector(".why-status:has-text('choose an image')")
    assert not [url for url in page.requests if "/explain" in url]


def test_nothing_is_asked_before_the_view_is_shown(page):
    upload(page, IMAGE)
    page.wait_for_selector("#timing:has-text('layers')")
    assert not [url for url in page.requests if "/explain" in url]
    page.click("#tab-why")
    page.locator(".why-heat:not(.stale)").nth(1).wait_for()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.complaints == []
