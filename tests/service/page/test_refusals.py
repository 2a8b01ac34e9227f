"""A server that is away, busy, closed to strangers, or refuses an image: the page says so, and goes on afterwards."""

import socket
import time
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest

from tests.in_process import digit, encoded
from tests.real_server import free_port, running_server, stop
from tests.service.page.conftest import opened, upload

FIRST, SECOND = (encoded(digit(index)) for index in (3, 1))
TOKEN = "a-long-secret"
AT_ONCE = 12  # requests


@pytest.fixture(scope="module")
def strict(lenet_artifact, tmp_path_factory):
    """A server that wants a token, takes small images only, and a dozen requests at a time."""
    limits = {"image_limit_pixels": 10_000, "body_limit_bytes": 20_000, "concurrency": AT_ONCE}
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log, token=TOKEN, **limits) as running:
        yield running


@pytest.fixture
def admitted(browser, strict):
    """Its page, after the token was given."""
    with opened(browser, strict, ready="#token-form", refusals=True) as page:
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector(".card")
        yield page


def classified(server, image, token=""):
    """The most probable class, and its probability in percent."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.post(f"{server.url}/v1/classify", content=image, headers=headers).raise_for_status().json()
    best = answer["results"][0]["predictions"][0]
    return best["label"], pytest.approx(100 * best["probability"], abs=0.06)


def shown(page):
    """The same, of the page."""
    page.wait_for_selector(".headline")
    label, percent = page.inner_text(".headline").splitlines()[0].removesuffix(" %").rsplit(" ", 1)
    return label.strip(), float(percent)


@contextmanager
def occupied(server):
    """Every place of the server is taken by a request whose body does not end."""
    bearer = {"authorization": f"Bearer {TOKEN}"}
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
    waiting = []
    try:
        refused = 0
        while refused < 8:  # one alone may be due to the request before it, which is just ending
            while len(waiting) < AT_ONCE or not refused:  # the page's own requests may have taken a place for a while
                waiting.append(socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)))
                waiting[-1].sendall(head.encode())
                refused = 1
            time.sleep(0.1)
            answer = httpx.post(f"{server.url}/v1/classify", content=FIRST, headers=bearer)
            refused = refused + 1 if answer.status_code == 429 else 0
            assert len(waiting) < 10 * AT_ONCE
        yield
    finally:
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("tab", ["layers", "numbers"])
def test_without_a_network_the_page_says_so_and_one_click_gives_the_answers(browser, server, tab):
    with opened(browser, server, f"#tab={tab}", ready="#tabs", refusals=True) as page:
        upload(page, FIRST)
        assert shown(page) == classified(server, FIRST)
        page.context.set_offline(True)
        upload(page, SECOND, name="second.png")
        page.wait_for_selector("#notice-text:has-text('The server does not answer')")
        page.wait_for_selector(".invitation")  # no answers beside an image they are not of
        page.context.set_offline(False)
        page.click("#notice-retry")
        assert shown(page) == classified(server, SECOND)
        assert page.inner_text("#given-title") == "second.png" and page.is_visible("#photo")
        assert f"tab={tab}" in page.url and page.is_visible(f"#panel-{tab}") and page.is_hidden("#notice")
        page.click("#tab-layers")
        page.locator(".card.filled").nth(11).wait_for(state="attached")


@pytest.mark.parametrize("last", ["classify", "feature-maps"])
def test_a_click_repeats_all_that_failed_in_whatever_order(browser, server, last):
    with opened(browser, server, refusals=True) as page:
        held = []
        page.route("**/v1/**", lambda route: held.append(route) if last in route.request.url else route.abort())
        upload(page, FIRST)
        page.wait_for_selector("#notice-text:has-text('The server does not answer')")
        held[0].abort()
        page.wait_for_timeout(100)
        page.unroute_all()
        page.click("#notice-retry")
        assert shown(page) == classified(server, FIRST)
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        assert page.is_hidden("#notice")


def test_an_answer_to_an_earlier_request_hides_no_refusal(browser, server):
    with opened(browser, server, refusals=True) as page:
        held = []
        page.route("**/v1/**", lambda route: route.abort() if "classify" in route.request.url else held.append(route))
        upload(page, FIRST)
        page.wait_for_selector("#notice-text:has-text('The server does not answer')")
        with page.expect_response("**/feature-maps*"):
            held[0].continue_()
        page.unroute_all()
        page.wait_for_timeout(300)
        page.click("#notice-retry")
        assert shown(page) == classified(server, FIRST) and page.is_hidden("#notice")


@pytest.mark.acceptance  # it starts two servers
def test_a_server_that_was_away_is_asked_again_by_one_click_and_nothing_is_lost(browser, lenet_artifact, tmp_path):
    port, folder = free_port(), lenet_artifact.parent.parent
    with ExitStack() as stack:
        server = stack.enter_context(running_server(folder, tmp_path / "first.log", port=port))
        why = stack.enter_context(opened(browser, server, "#tab=why", ready="#tabs", refusals=True))
        unit = stack.enter_context(opened(browser, server, "#layer=conv1&index=2,4,4", refusals=True))
        for page in (why, unit):
            upload(page, FIRST)
            assert shown(page) == classified(server, FIRST)
        unit.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 4]')")
        stop(server.process)
        upload(why, SECOND, name="second.png")
        unit.focus("#channel-map")
        unit.keyboard.press("ArrowRight")
        for page in (why, unit):
            page.wait_for_selector("#notice-text:has-text('The server does not answer')")
        server = stack.enter_context(running_server(folder, tmp_path / "second.log", port=port))
        why.click("#notice-retry")
        assert shown(why) == classified(server, SECOND)
        why.wait_for_selector(f".why-heat figcaption:has-text('What speaks for {classified(server, SECOND)[0]},')")
        unit.click("#channel #notice-retry")  # behind the open dialog it could not be clicked
        unit.wait_for_selector("#arithmetic strong:has-text('conv1 [2, 4, 5]')")
        wanted = httpx.post(f"{server.url}/v1/models/lenet/unit?layer=conv1&index=2,4,5", content=FIRST).json()
        served = float(unit.inner_text(".unit-served").replace("\N{MINUS SIGN}", "-"))
        assert served == pytest.approx(wanted["served"], rel=1e-5)
        assert shown(unit) == classified(server, FIRST)
        assert why.inner_text("#given-title") == "second.png" and "tab=why" in why.url
        for page in (why, unit):
            assert page.is_visible("#photo") and page.is_hidden("#notice")


def test_a_busy_server_is_asked_again_by_itself(admitted, strict):
    page = admitted
    with occupied(strict):
        upload(page, FIRST)
        page.wait_for_selector("#notice-text:has-text('trying again in 1 s')")
        assert "too many requests are under way; the limit is 12" in page.inner_text("#notice-text")
    page.wait_for_selector("#notice", state="hidden")
    assert shown(page) == classified(strict, FIRST, TOKEN)
    page.locator(".card.filled").nth(11).wait_for(state="attached")


def test_a_wrong_token_is_refused_and_the_right_one_gives_the_answers(browser, strict):
    with opened(browser, strict, ready="#token-form", refusals=True) as page:
        assert "requires the header Authorization" in page.inner_text("#notice-text")
        page.fill("#token", "not-this-one")
        page.click("#token-form button")
        page.wait_for_selector("#notice-text:has-text('refuses this token')")
        assert page.is_visible("#token-form") and page.locator(".card").count() == 0
        page.fill("#token", TOKEN)
        page.click("#token-form button")
        page.wait_for_selector(".card")
        assert page.is_hidden("#notice")
        upload(page, FIRST)
        assert shown(page) == classified(strict, FIRST, TOKEN)
        page.locator(".card.filled").nth(11).wait_for(state="attached")
        page.reload()
        page.wait_for_selector(".card")  # this tab keeps it


REFUSED = {  # bytes, and what the message has of the server's
    "pixels": (encoded(np.zeros((101, 100), np.uint8)), "image of 100x101 has 0.0101 MP; the limit is 0.01 MP"),
    "bytes": (FIRST + bytes(30_000), "the limit is 20000"),
    "text": (b"hello", "not an image"),
    "damaged": (FIRST[:60], ""),
    "empty": (b"", "the body is empty"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_image_is_explained_and_the_next_is_taken(admitted, strict, what):
    page = admitted
    data, reason = REFUSED[what]
    answer = httpx.post(f"{strict.url}/v1/classify", content=data, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code in (400, 413, 415)
    message = answer.json()["error"]["message"]
    assert reason in message
    upload(page, FIRST)
    shown(page)
    upload(page, data, name="refused.png")
    page.wait_for_selector("#notice-text:has-text('(4')")
    assert page.inner_text("#notice-text").startswith(message)
    page.wait_for_selector(".invitation")
    upload(page, SECOND, name="second.png")
    page.wait_for_selector("#notice", state="hidden")
    assert shown(page) == classified(strict, SECOND, TOKEN)
    page.locator(".card.filled").nth(11).wait_for(state="attached")
