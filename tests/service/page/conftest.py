"""The page in a real browser, against a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_server import Server, running_server

TIMEOUT_MS = 30_000


@pytest.fixture(scope="session")
def server(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of the page's tests: the page changes nothing in it."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log) as running:
        yield running


@pytest.fixture
def page(browser, server):
    """The page, loaded, without an image; `page.requests` and `page.complaints` list what happened."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{server.url}/")
    page.wait_for_selector(".card")
    yield page
    context.close()


def upload(page, data, name="digit.png", kind="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
