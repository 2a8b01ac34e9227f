"""The page without a mouse: every step is a key, from loading to a unit and through the views."""

import re

import httpx
import pytest

from tests.service.page.conftest import opened

ACTIVE = "document.activeElement"


def tab_to(page, selector, most=60):
    """Presses Tab until an element has the focus, which must show."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(f"selector => {ACTIVE}.matches(selector)", selector):
            width = page.evaluate(f"parseFloat(getComputedStyle({ACTIVE}).outlineWidth)")
            style = page.evaluate(f"getComputedStyle({ACTIVE}).outlineStyle")
            assert width >= 1 and style != "none"
            return
    pytest.fail(f"{selector} was not reached by {most} tabs")


def test_a_sample_a_unit_and_all_views_are_reached_by_keys_alone(browser, server):
    samples = httpx.get(f"{server.url}/v1/models/lenet/samples").json()["samples"]
    image = httpx.get(f"{server.url}/v1/models/lenet/samples/1").content
    with opened(browser, server, ready=".sample") as page:
        tab_to(page, ".sample")
        tab_to(page, ".sample", most=1)
        page.keyboard.press("Enter")
        page.wait_for_selector(f".headline strong:text-is('{samples[1]['prediction']['label']}')")
        page.wait_for_selector("[data-node=conv1].filled")

        tab_to(page, "#tab-layers")
        tab_to(page, "[data-node=conv1] .map")
        page.keyboard.press("ArrowRight")
        assert page.is_visible("#readout")
        page.keyboard.press("Enter")
        page.wait_for_selector("#arithmetic .unit-served")
        channel, row, column = (int(part) for part in re.search(r"index=(\d+),(\d+),(\d+)", page.url).groups())
        for key in ("ArrowDown", "ArrowDown", "ArrowLeft", "PageDown"):
            page.keyboard.press(key)
        place = [channel + 1, row + 2, column - 1]
        page.wait_for_selector(f"#arithmetic strong:has-text('conv1 [{', '.join(map(str, place))}]')")
        index = ",".join(map(str, place))
        unit = httpx.post(f"{server.url}/v1/models/lenet/unit?layer=conv1&index={index}", content=image).json()
        served = float(page.inner_text(".unit-served").replace("\N{MINUS SIGN}", "-"))
        assert served == pytest.approx(unit["served"], rel=1e-5, abs=1e-9)
        page.keyboard.press("Escape")
        page.wait_for_selector("#channel", state="hidden")
        assert page.evaluate(f"{ACTIVE}.closest('[data-node]').dataset.node") == "conv1"

        for _ in range(30):
            page.keyboard.press("Shift+Tab")
            if page.evaluate(f"{ACTIVE}.id") == "tab-layers":
                break
        for tab in ("why", "compare", "numbers", "lab", "layers"):
            page.keyboard.press("ArrowRight")
            page.wait_for_selector(f"#panel-{tab}:visible")
            assert page.evaluate(f"{ACTIVE}.id") == f"tab-{tab}"
            assert page.locator("[role=tabpanel]:visible").count() == 1
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#panel-lab:visible")
        assert "tab=lab" in page.url
