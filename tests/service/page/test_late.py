"""What arrives late: answers, and decoded pictures, of an image, a model or a unit that is no longer shown."""

import httpx
import pytest

from tests.in_process import digit, encoded
from tests.real_server import until
from tests.service.page.conftest import opened, upload

FIRST, SECOND = encoded(digit(3)), encoded(digit(8))
HOLD_PICTURES = """() => {
    const decode = createImageBitmap;
    window.held = [];
    window.createImageBitmap = (...given) =>
        new Promise((resolve) => held.push(resolve)).then(() => decode(...given));
}"""
LET_GO = "() => held.splice(0).forEach((resolve) => resolve())"
AT_CLOSE = "() => addEventListener('close', () => (window.atClose = location.hash), { capture: true })"


@pytest.fixture
def shown(browser, server):
    """The page with an image, all layers drawn."""
    with opened(browser, server, "#model=lenet") as page:
        upload(page, FIRST)
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        yield page


@pytest.mark.parametrize("way", ["Escape", "button", "backdrop"])
def test_the_address_has_changed_before_the_dialog_has_closed(shown, way):
    shown.evaluate(AT_CLOSE)
    shown.evaluate("location.hash = 'model=lenet&layer=conv1&index=2,4,4'")
    shown.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
    if way == "Escape":
        shown.keyboard.press("Escape")
    elif way == "button":
        shown.click("#channel-close")
    else:
        shown.mouse.click(3, 3)
    until(lambda: shown.evaluate("window.atClose"))
    assert shown.evaluate("atClose") == "#model=lenet"
    shown.go_back()
    shown.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")


def test_a_unit_closed_while_its_map_was_decoded_stays_closed(browser, server):
    with opened(browser, server, "#model=lenet&layer=conv1&index=2,4,4") as page:
        page.evaluate(HOLD_PICTURES)
        upload(page, FIRST)
        until(lambda: page.evaluate("held.length") == 1)  # the network's input
        page.evaluate(LET_GO)
        until(lambda: page.evaluate("held.length") > 1)  # the layers, and the unit's
        page.evaluate("location.hash = 'model=lenet'")
        while page.locator(".card.filled").count() < 12:
            page.evaluate(LET_GO)
        assert page.is_hidden("#channel")


def test_layers_decoded_after_another_model_was_chosen_are_not_shown(browser, zoo):
    with opened(browser, zoo, "#model=lenet:1") as page:
        page.evaluate(HOLD_PICTURES)
        upload(page, FIRST)
        until(lambda: page.evaluate("held.length") == 1)
        page.route("**/feature-maps*", lambda route: None)
        page.select_option("#model", "lenet:2")
        page.wait_for_selector("#provenance:has-text('parameters')")
        page.evaluate(LET_GO)
        page.wait_for_timeout(300)
        assert "parameters" in page.inner_text("#provenance")
        assert not page.evaluate("held.length") and not page.locator(".card.filled").count()


def test_a_layer_that_comes_after_another_model_was_chosen_is_not_shown(browser, zoo):
    """The unit asks for its layer by itself where the layers come one after the other."""
    with opened(browser, zoo, "#model=lenet:1&layer=conv1&index=2,4,4", refusals=True) as page:
        held = []

        def hold(route):
            if "values=tiles" not in route.request.url:
                route.continue_()
            elif "layers=" not in route.request.url:
                error = {"error": {"code": "too_many_values", "message": "held back by the test"}}
                route.fulfill(status=422, json=error)
            elif "conv1" in route.request.url:
                held.append(route)
            else:
                route.continue_()

        page.route("**/feature-maps*", hold)
        upload(page, FIRST)
        page.wait_for_selector("#provenance:has-text('computed by')")
        page.wait_for_selector("#channel")
        page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
        of_first = [route for route in held if "lenet%3A1" in route.request.url]
        assert of_first
        page.select_option("#model", "lenet:2")
        page.wait_for_selector("#channel", state="hidden")
        page.wait_for_selector("#provenance:has-text('computed by')")
        for route in of_first:
            route.continue_()
        page.wait_for_timeout(300)
        assert "filled" not in page.get_attribute("[data-node=conv1]", "class")


def test_statistics_are_those_of_the_newest_image(shown, server):
    held = []
    shown.route("**/feature-maps*statistics*", lambda route: route.continue_() if held else held.append(route))
    shown.click("[data-node=relu_2] .layer-details summary")
    until(lambda: shown.wait_for_timeout(10) or held)
    query = "layers=relu_2&values=uint8&statistics=true"
    means = []
    for image in (FIRST, SECOND):
        answer = httpx.post(f"{server.url}/v1/models/lenet/feature-maps?{query}", content=image).json()
        means.append(f"{answer['layers'][0]['statistics']['mean']:.3g}")
    assert means[0] != means[1]
    upload(shown, SECOND, name="second.png")
    shown.wait_for_timeout(300)
    held[0].continue_()
    shown.wait_for_selector(f"[data-node=relu_2] .layer-facts dd:text-is('{means[1]}')")


def test_an_order_that_comes_late_does_not_replace_the_one_chosen_since(shown):
    held = []
    shown.route("**/feature-maps*rank=contribution*", lambda route: held.append(route))
    shown.click("[data-node=relu_1] .layer-details summary")
    pixels = "() => document.querySelector('[data-node=relu_1] .map').toDataURL()"
    order = shown.locator("[data-node=relu_1] .layer-details select")
    order.wait_for()
    before = shown.evaluate(pixels)
    order.select_option("contribution")
    order.select_option("index")
    with shown.expect_response("**/feature-maps*rank=contribution*"):
        held[0].continue_()
    shown.wait_for_timeout(300)
    assert shown.evaluate(pixels) == before
    shown.unroute_all()
    order.select_option("contribution")
    until(lambda: shown.evaluate(pixels) != before)


def test_a_class_score_keeps_the_focus_when_the_image_changes(shown):
    button = shown.locator("[data-node='fc.2'] .logits li").nth(4).locator("button")
    button.focus()
    before = button.inner_text()
    upload(shown, SECOND, name="second.png")
    until(lambda: button.inner_text() not in ("", before))
    assert button.evaluate("one => one === document.activeElement")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#arithmetic strong:has-text('fc.2 [4]')")


def test_two_clicks_on_the_camera_start_one_stream(browser, server):
    with opened(browser, server, "#model=lenet") as page:
        page.evaluate("""() => {
            window.streams = 0;
            const canvas = document.createElement('canvas');
            const getUserMedia = async () => {
                streams += 1;
                await new Promise((resolve) => setTimeout(resolve, 200));
                return canvas.captureStream();
            };
            Object.defineProperty(navigator.mediaDevices, 'getUserMedia', { value: getUserMedia });
        }""")
        page.evaluate("document.getElementById('camera').click(); document.getElementById('camera').click()")
        page.wait_for_timeout(100)
        assert page.evaluate("streams") == 1
