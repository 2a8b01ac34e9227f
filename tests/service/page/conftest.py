"""The page in a real browser, against a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.in_process import digit, encoded
from tests.real_server import Server, running_server
from tests.service.page.zoo import build_zoo

TIMEOUT_MS = 30_000
OF_CHROMIUM = "Failed to load resource"  # its own line for every status from 400 on


@pytest.fixture(scope="session")
def server(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of the page's tests: the page changes nothing in it."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log) as running:
        yield running


@pytest.fixture(scope="session")
def zoo(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of many models: of other sizes, classes and origins, two versions of one, one without model.onnx."""
    folder = tmp_path_factory.mktemp("zoo")
    with running_server(build_zoo(folder, lenet_artifact), folder / "server.log") as running:
        yield running


@contextmanager
def opened(browser, server, address="", *, ready=".card", refusals=False, **options):
    """The page at an address, once `ready` is there; `page.requests` and `page.complaints` list what happened.

    Raises:
        AssertionError: at the end, if it asked another host or the console is not empty; with `refusals` Chromium's
            own lines about refused requests are no matter.
    """
    chosen = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light", **options}
    context = browser.new_context(**chosen)
    context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.requests, page.complaints, page.refusals = [], [], refusals
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{server.url}/{address}")
    page.wait_for_selector(ready)
    try:
        yield page
    finally:
        context.close()
    ours = (f"{server.url}/", f"blob:{server.url}/", "data:")
    assert [url for url in page.requests if not url.startswith(ours)] == []
    assert [text for text in page.complaints if not (page.refusals and text.startswith(OF_CHROMIUM))] == []


@pytest.fixture
def page(browser, server):
    """The page, loaded, without an image."""
    with opened(browser, server) as page:
        yield page


@pytest.fixture
def shown(browser, server):
    """The page with an image, all layers drawn."""
    with opened(browser, server, "#model=lenet") as page:
        upload(page, encoded(digit(3)))
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        yield page


def upload(page, data, name="digit.png", kind="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
