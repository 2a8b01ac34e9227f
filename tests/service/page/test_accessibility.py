"""axe-core finds nothing serious in any view, light and dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.in_process import digit, encoded
from tests.service.page.conftest import TIMEOUT_MS, upload

VIEWS = {  # address: something that is there once the view is complete
    "tab=layers": ".card.filled",
    "tab=why": "#panel-why canvas",
    "tab=compare": "#panel-compare button",
    "tab=numbers": "#panel-numbers table",
    "tab=lab": "#panel-lab canvas, #panel-lab table",
    "layer=conv1&index=2,4,4": ".unit-windows",
}


@pytest.fixture(params=["light", "dark"])
def page(request, browser, server):
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
    context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(server.url)
    page.wait_for_selector(".card")
    upload(page, encoded(digit(3)))
    page.wait_for_selector(".card.filled")
    yield page
    context.close()


def test_nothing_serious_is_found(page):
    found = []
    for address, ready in VIEWS.items():
        page.evaluate(f"location.hash = '{address}'")
        page.locator(ready).first.wait_for()
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in violation["nodes"][:3]]
                found.append((address, violation["id"], nodes))
    assert found == []
