"""The tour on the first visit, and the explanations of terms."""

import pytest

from tests.service.page.conftest import TIMEOUT_MS


@pytest.fixture
def visit(browser, server):
    """Opens the page in a browser that has not seen it before, or again."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)

    def open_page():
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector(".card")
        return page

    yield open_page
    context.close()


def test_the_tour_leads_through_the_page_once(visit):
    page = visit()
    marked = []
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Next"
    for step in range(1, 6):
        page.wait_for_selector(f"#tour:has-text('{step} of 5')")
        marked.append(page.locator(".tour-target").evaluate("target => target.id || target.className"))
        page.click("#tour .primary")
    assert marked == ["frame tour-target", "map", "flow", "tab-why", "tab-lab"]
    assert page.is_hidden("#tour")
    assert visit().is_hidden("#tour")


def test_the_tour_can_be_skipped(visit):
    page = visit()
    page.get_by_role("button", name="Skip").click()
    assert page.is_hidden("#tour") and page.locator(".tour-target").count() == 0
    assert visit().is_hidden("#tour")


def test_the_question_mark_opens_the_tour_and_escape_closes_it(page):
    page.click("#help")
    assert page.evaluate("document.activeElement.textContent") == "Next"
    page.keyboard.press("Escape")
    assert page.is_hidden("#tour")
    assert page.evaluate("document.activeElement.id") == "help"


@pytest.mark.parametrize("width", [375, 1024, 1440])
def test_the_tour_covers_nothing_that_it_explains(visit, width):
    page = visit()
    page.set_viewport_size({"width": width, "height": 740})
    overlap = """() => {
        const [a, b] = ['#tour', '.tour-target'].map(each => document.querySelector(each).getBoundingClientRect());
        return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    }"""
    for step in range(1, 6):
        page.wait_for_selector(f"#tour:has-text('{step} of 5')")
        if step != 3:  # the layers are longer than any window
            page.wait_for_timeout(800)  # the page scrolls
            assert not page.evaluate(overlap)
            assert page.locator(".tour-target").evaluate("target => target.getBoundingClientRect().top < innerHeight")
        page.click("#tour .primary")


def test_a_question_mark_explains_its_term_and_leads_into_the_lab(page):
    page.locator("[data-node=conv1] .about [data-term=stride]").click()
    assert "how many pixels the kernel moves" in page.inner_text("#term")
    page.keyboard.press("Escape")
    assert page.is_hidden("#term")
    page.locator("[data-node=pool] .op [data-term]").focus()
    page.keyboard.press("Enter")
    page.click("#term .link")
    page.wait_for_selector("#panel-lab", state="visible")
    assert "tab=lab" in page.url
    assert page.locator("#panel-lab select").first.input_value() == "Max pooling"
