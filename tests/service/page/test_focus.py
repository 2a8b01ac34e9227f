"""Where the focus is, and what opens and closes, when the page changes beneath it."""

from tests.in_process import digit, encoded
from tests.service.page.conftest import opened, upload

IMAGE = encoded(digit(3))
FOCUSED = "() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName"


def go(page, where):
    page.evaluate(f"location.hash = 'model=lenet{where}'")


def test_a_unit_without_a_map_takes_no_key_that_opened_it(shown):
    go(shown, "&layer=fc.0&index=3")
    shown.wait_for_selector("#arithmetic strong:has-text('fc.0 [3]')")
    assert shown.evaluate(FOCUSED) == "channel-title"
    shown.keyboard.press("Escape")
    shown.wait_for_selector("#channel", state="hidden")
    shown.locator("[data-node=conv1] .map").focus()
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#arithmetic strong:has-text('conv1 [')")
    assert shown.evaluate(FOCUSED) == "channel-map" and shown.is_visible("#channel")


def test_following_a_term_keeps_the_focus_in_the_dialog(shown):
    go(shown, "&layer=fc.0&index=3")
    shown.wait_for_selector("#arithmetic strong:has-text('fc.0 [3]')")
    shown.locator(".unit-terms .link").first.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#arithmetic strong:has-text('flatten [')")
    assert shown.evaluate("document.getElementById('channel').contains(document.activeElement)")
    go(shown, "&layer=conv1&index=2,4,4")
    shown.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
    shown.locator("#channel-map").focus()
    go(shown, "&layer=fc.0&index=3")
    shown.wait_for_selector("#arithmetic strong:has-text('fc.0 [3]')")
    assert shown.evaluate(FOCUSED) == "channel-title"


def test_nothing_opens_without_an_image(browser, server):
    with opened(browser, server, "#model=lenet") as page:
        page.locator("[data-node=conv1] .map").click()
        page.keyboard.press("Enter")
        assert "layer=" not in page.url


def test_a_jump_to_a_layer_that_the_filter_hides_ends_the_filter(shown):
    shown.fill("#filter", "nothing has this name")
    shown.wait_for_selector("#nothing", state="visible")
    shown.click("#tab-numbers")
    shown.click("#panel-numbers tbody tr[data-layer='fc.2'] td")
    shown.wait_for_selector("[data-node='fc.2']")
    assert shown.input_value("#filter") == "" and shown.is_hidden("#nothing")
    assert shown.evaluate("document.querySelector(\"[data-node='fc.2']\").contains(document.activeElement)")


def test_a_message_that_comes_again_leaves_the_focus(shown):
    answers = iter(range(10))

    def refuse(route):
        next(answers)
        error = {"error": {"code": "queue_full", "message": "too many"}}
        route.fulfill(status=429, json=error, headers={"retry-after": "1"})

    shown.route("**/classify*", refuse)
    upload(shown, encoded(digit(8)), name="second.png")
    shown.wait_for_selector("#notice:has-text('too many')")
    shown.locator("#notice-close").focus()
    shown.wait_for_timeout(2500)
    assert next(answers) >= 3 and shown.evaluate(FOCUSED) == "notice-close"
    shown.unroute_all()
    shown.complaints.clear()
    shown.wait_for_selector("#notice", state="hidden")


def test_a_unit_of_another_model_opens_by_its_address(browser, zoo):
    with opened(browser, zoo, "#model=lenet:1") as page:
        upload(page, IMAGE)
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        page.evaluate("location.hash = 'model=lenet:1&layer=conv1&index=2,4,4'")
        page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
        page.evaluate("location.hash = 'model=lenet:2&layer=conv1&index=1,2,2'")
        page.wait_for_selector("#arithmetic strong:has-text('conv1 [1, 2, 2]')")
        assert page.url.endswith("#model=lenet:2&layer=conv1&index=1,2,2")
        page.go_back()
        page.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")


def test_a_page_without_storage_starts(browser, server):
    context = browser.new_context()
    context.add_init_script("""for (const name of ['localStorage', 'sessionStorage'])
        Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });""")
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector(".card")
    page.wait_for_selector("#tour")
    page.click("#tour >> text=Skip")
    assert complaints == [] and page.is_hidden("#tour")
    context.close()
