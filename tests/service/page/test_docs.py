"""The HTTP reference at /docs, in a real browser: every operation is there and can be tried, without another host."""

import json

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.in_process import digit, encoded
from tests.real_server import running_server
from tests.service.page.conftest import opened

TOKEN = "a-long-secret"


@pytest.fixture
def docs(browser, server):
    with opened(browser, server, "docs", ready=".operation") as page:
        yield page


def opened_operation(page, name):
    page.click(f"#{name} > summary")
    operation = page.locator(f"#{name}")
    operation.locator("h3").first.wait_for()
    return operation


def send(operation):
    operation.get_by_role("button", name="Send").click()
    operation.locator(".result .status").wait_for()
    return operation.locator(".result .status").inner_text()


def test_every_operation_is_listed_and_opens(docs, server):
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    ids = {one["operationId"] for methods in paths.values() for one in methods.values()}
    assert {one.get_attribute("id") for one in docs.locator(".operation").all()} == ids
    for name in sorted(ids):
        operation = opened_operation(docs, name)
        assert operation.locator(".answers > details").count() > 0
        operation.locator(".answers > details > summary").first.click()
        docs.click(f"#{name} > summary")


def test_json_is_sent_as_the_example_has_it(docs, server):
    operation = opened_operation(docs, "classify")
    operation.get_by_label("Media type of the body").select_option("application/json")
    assert send(operation) == "200 OK"
    shown = json.loads(operation.locator(".result pre").last.inner_text())
    body = json.loads(operation.get_by_label("JSON").input_value())
    assert shown == httpx.post(f"{server.url}/v1/classify", json=body).json()


@pytest.mark.parametrize("media_type", ["application/octet-stream", "multipart/form-data"])
def test_files_are_sent(docs, media_type):
    operation = opened_operation(docs, "classify")
    operation.get_by_label("Media type of the body").select_option(media_type)
    operation.get_by_label("top_k").fill("2")
    png = {"name": "digit.png", "mimeType": "image/png", "buffer": encoded(digit())}
    operation.locator("input[type=file]:visible").set_input_files(png)
    assert send(operation) == "200 OK"
    (result,) = json.loads(operation.locator(".result pre").last.inner_text())["results"]
    assert len(result["predictions"]) == 2


def test_paths_are_filled_and_images_shown(docs):
    operation = opened_operation(docs, "get_sample")
    assert operation.get_by_label("model").input_value() == "lenet"
    assert send(operation) == "200 OK"
    image = operation.locator(".result img")
    image.wait_for()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8


def test_a_refusal_is_shown_with_its_reason(docs):
    docs.refusals = True
    operation = opened_operation(docs, "classify")
    assert send(operation) == "400 Bad Request"
    assert "body_empty" in operation.locator(".result pre").last.inner_text()


def test_operations_are_found_by_words_and_by_address(docs, server):
    docs.fill("#find", "kernels")
    visible = [one.get_attribute("id") for one in docs.locator(".operation:visible").all()]
    assert visible == ["get_kernels"]
    docs.goto(f"{server.url}/docs#explain")
    docs.reload()
    docs.locator("#explain[open] h3").first.wait_for()


def test_a_token_is_asked_for_and_sent(browser, lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", token=TOKEN) as server:
        with opened(browser, server, "docs", ready="#token-form:visible", refusals=True) as page:
            page.fill("#token", TOKEN)
            page.click("#token-form button")
            page.wait_for_selector(".operation")
            assert not page.locator("#notice").is_visible()
            assert send(opened_operation(page, "get_labels")) == "200 OK"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found(browser, server, scheme):
    with opened(browser, server, "docs#classify", ready="#classify h3", color_scheme=scheme) as page:
        operation = page.locator("#classify")
        operation.get_by_label("Media type of the body").select_option("application/json")
        operation.locator(".answers summary").first.click()
        send(operation)
        for size in ({"width": 1440, "height": 900}, {"width": 400, "height": 800}):
            page.set_viewport_size(size)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            violations = Axe().run(page).response["violations"]
            serious = [one for one in violations if one["impact"] in ("serious", "critical")]
            assert [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in serious] == []
