"""What arrives late: answers, and decoded pictures, of an image, a model or a unit that is no longer shown."""

import httpx
import pytest

from tests.in_process import digit, encoded
from tests.real_server import until
from tests.service.page.conftest import opened, upload

NONE = "\N{EN DASH}"
FIRST, SECOND = encoded(digit(3)), encoded(digit(8))
HOLD_PICTURES = """() => {
    const decode = createImageBitmap;
    window.held = [];
    window.createImageBitmap = (...given) =>
        new Promise((resolve) => held.push(resolve)).then(() => decode(...given));
}"""
LET_GO = "() => held.splice(0).forEach((resolve) => resolve())"
AT_CLOSE = "() => addEventListener('close', () => (window.atClose = location.hash), { capture: true })"


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


def refuse_all(route):
    error = {"error": {"code": "too_many_values", "message": "too many values"}}
    if "values=tiles" in route.request.url and "layers=" not in route.request.url:
        route.fulfill(status=422, json=error)
    else:
        route.continue_()


def test_a_second_image_replaces_every_layer_where_they_come_one_by_one(browser, server):
    pixels = "() => document.querySelector('[data-node=conv1] .map').toDataURL()"
    with opened(browser, server, "#model=lenet", refusals=True) as page:
        page.route("**/feature-maps*", refuse_all)
        upload(page, FIRST)
        page.wait_for_selector("[data-node=conv1].filled")
        first = page.evaluate(pixels)
        upload(page, SECOND, name="second.png")
        until(lambda: page.wait_for_timeout(50) or page.evaluate(pixels) != first)
        page.wait_for_selector("[data-node=conv1].filled")
        second = page.evaluate(pixels)
        page.unroute_all()
        page.reload()
        upload(page, SECOND, name="second.png")
        page.wait_for_selector("[data-node=conv1].filled")
        assert page.evaluate(pixels) == second != first


def test_a_model_chosen_twice_in_quick_succession_is_shown_once(browser, zoo):
    with opened(browser, zoo, "#model=lenet:1", refusals=True) as page:
        upload(page, FIRST)
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        held = []
        page.route("**/lenet%3A2/graph", lambda route: held.append(route))
        page.select_option("#model", "lenet:2")
        until(lambda: page.wait_for_timeout(20) or held)
        assert page.is_hidden(".headline") and not page.locator(".card.filled").count()
        page.select_option("#model", "lenet:1")
        page.wait_for_selector(".headline")
        error = {"error": {"code": "model_not_ready", "message": "lenet:2 cannot be loaded"}}
        held[0].fulfill(status=503, json=error)
        page.wait_for_timeout(300)
        assert page.is_hidden("#notice") and page.input_value("#model") == "lenet:1"
        page.locator(".card.filled").nth(11).wait_for(state="attached")


@pytest.mark.parametrize("tab", ["why", "compare"])
def test_an_image_that_the_server_refuses_is_waited_for_by_no_view(browser, server, tab):
    with opened(browser, server, f"#model=lenet&tab={tab}", ready="#tabs", refusals=True) as page:
        upload(page, FIRST)
        page.wait_for_selector(".headline")
        if tab == "compare":
            page.click("text=Keep this image as A")
        upload(page, b"no image", name="bad.png")
        page.wait_for_selector(f"#panel-{tab}:has-text('The server refused this image')")
        assert "Waiting" not in page.inner_text(f"#panel-{tab}")
        upload(page, SECOND, name="second.png")
        page.wait_for_selector(".why-heat figcaption" if tab == "why" else ".compare-layers tbody tr")


def test_an_explanation_whose_connection_breaks_can_be_tried_again(browser, server):
    with opened(browser, server, "#model=lenet&tab=why", ready="#tabs") as page:
        page.evaluate("""() => {
            const real = fetch;
            window.fetch = (path, options) => {
                if (!path.includes('/explain?') || window.sound) return real(path, options);
                const start = (stream) => stream.error(new TypeError('network error'));
                return Promise.resolve(new Response(new ReadableStream({ start })));
            };
        }""")
        upload(page, FIRST)
        page.wait_for_selector(".why-status:has-text('The connection to the server broke')")
        page.evaluate("window.sound = true")
        page.click("#panel-why >> text=Try again")
        page.wait_for_selector(".why-heat figcaption:has-text('What speaks for')")


def test_exact_values_are_asked_for_once(shown):
    asked = []
    shown.on("request", lambda request: asked.append(request.url) if "layers=conv1" in request.url else None)
    shown.route("**/feature-maps?layers=conv1", lambda route: None)  # it takes long
    shown.evaluate("location.hash = 'model=lenet&layer=conv1&index=2,4,4'")
    shown.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
    for column in range(5, 11):
        shown.keyboard.press("ArrowRight")
        shown.wait_for_selector(f"#arithmetic strong:has-text('conv1 [2, 4, {column}]')")
    assert len(asked) == 1


@pytest.mark.parametrize("then", ["clear", "back"])
def test_silent_channels_are_those_of_the_image_that_is_shown(browser, server, then):
    with opened(browser, server, "#model=lenet&tab=numbers", ready=".sample") as page:
        if then == "back":  # to a sample, which is the same file
            page.click(".sample >> nth=0")
            page.wait_for_selector(".numbers-silent:has-text('ilent')")
            before = page.inner_text("#panel-numbers tbody")
        held = []
        page.route("**/feature-maps*statistics*", lambda route: held.append(route))
        page.click(".sample >> nth=1")
        until(lambda: page.wait_for_timeout(20) or held)
        page.click("#clear" if then == "clear" else ".sample >> nth=0")
        page.wait_for_timeout(300)
        for route in held:
            route.continue_()
        page.wait_for_timeout(300)
        if then == "clear":
            assert page.inner_text(".numbers-silent") == ""
        else:
            assert page.inner_text("#panel-numbers tbody") == before


def test_numbers_that_are_not_finite_are_dashes(shown):
    def spoil(route):
        answer = route.fetch().json()
        for layer in answer["layers"]:
            layer["values"][2] = [[None for _ in row] for row in layer["values"][2]]
        route.fulfill(json=answer)

    def spoil_unit(route):
        answer = route.fetch().json()
        for group in answer["terms"]:
            group["values"] = [[[None for _ in row] for row in rows] for rows in group["values"]]
            group["products"] = [[[None for _ in row] for row in rows] for rows in group["products"]]
        route.fulfill(json={**answer, "served": None, "value": None})

    shown.route("**/feature-maps?layers=conv1", spoil)
    shown.route("**/unit?*", spoil_unit)
    shown.evaluate("location.hash = 'model=lenet&layer=conv1&index=2,4,4'")
    shown.wait_for_selector(".unit-served:has-text('not a finite number')")
    shown.wait_for_selector(f"#channel-readout:has-text('= {NONE}')")
    assert shown.get_attribute("#arithmetic", "aria-busy") is None


def test_long_vectors_are_drawn_at_once(shown):
    drawn = shown.evaluate("""async () => {
        const { Bars, rangeOf } = await import('/page/views/layers/bars.js');
        const values = Array.from({ length: 300000 }, (_, at) => at % 7 - 3);
        const colours = { positive: 'red', negative: 'blue', frame: 'black' };
        new Bars(values.length, 1200).draw(document.createElement('canvas'), values, colours);
        return rangeOf([...values, null]);
    }""")
    assert drawn == [-3, 3]


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
        page.wait_for_selector("#camera:has-text('Take the picture')")
        upload(page, FIRST)  # ends it
        page.wait_for_selector("#camera:has-text('Camera')")
        assert page.is_hidden("#camera-video") and page.is_visible("#photo")
