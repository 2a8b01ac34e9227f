"""A real server under more than it takes: 429 for what is too much, and an answer for the rest."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from tests.in_process import digit, encoded
from tests.real_server import running_server
from tests.service.scrape import scrape, total

IMAGE = encoded(digit())
REQUEST = (
    b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
)


@pytest.fixture(scope="module")
def server(lenet_artifact, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    settings = {"concurrency": 100, "queue_size": 40, "images_per_request": 40, "json_limit_bytes": 2000}
    settings["batch_wait_ms"] = 200
    with running_server(lenet_artifact.parent.parent, log, **settings) as running:
        yield running


async def connect(server):
    return await asyncio.open_connection("127.0.0.1", httpx.URL(server.url).port)


async def ask(server, request=REQUEST):
    reader, writer = await connect(server)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


def test_a_thousand_connections_at_once_get_answers_or_429(server):
    async def all_at_once():
        connections = await asyncio.gather(*[connect(server) for _ in range(1000)])
        for _, writer in connections:
            writer.write(REQUEST)
        answers = await asyncio.gather(*[asyncio.wait_for(reader.read(), 60) for reader, _ in connections])
        for _, writer in connections:
            writer.close()
        return answers

    answers = asyncio.run(all_at_once())
    statuses = Counter(int(answer.split(b" ", 2)[1]) for answer in answers)
    assert set(statuses) <= {200, 429} and statuses[200] >= 40, statuses
    for answer in answers:
        if b" 429 " in answer[:20]:
            assert b"retry-after: " in answer and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert asyncio.run(ask(server))[0] == 200
    assert server.log.count("Traceback") == 0


def test_more_requests_than_may_be_under_way_get_429_and_health_still_answers(server):
    async def held():
        waiting = [await connect(server) for _ in range(100)]
        for _, writer in waiting:
            writer.write(REQUEST[:-1])
        await asyncio.sleep(0.3)
        status, answer = await ask(server)
        assert status == 429 and b"the limit is 100 (CONVSCOPE_CONCURRENCY)" in answer
        assert (await ask(server, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))[0] == 200
        for begin in range(0, 100, 20):  # fewer together than the queue takes; one by one each would wait for a batch
            part = waiting[begin : begin + 20]
            for _, writer in part:
                writer.write(REQUEST[-1:])
            for reader, writer in part:
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()

    asyncio.run(held())


def test_a_client_that_hangs_up_before_its_request_is_complete_costs_no_inference(server):
    def images():
        return total(scrape(httpx, server.url), "convscope_images_total")

    async def hang_up():
        for request in (REQUEST[:-1], REQUEST[:-100], REQUEST[:20]):
            _, writer = await connect(server)
            writer.write(request)
            await asyncio.sleep(0.05)
            writer.close()
        await asyncio.sleep(0.5)

    before = images()
    asyncio.run(hang_up())
    assert images() == before
    assert asyncio.run(ask(server))[0] == 200 and images() == before + 1


def test_a_body_behind_an_upgrade_is_not_taken_for_the_next_request(server):
    second = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    first = (
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    )

    async def ask_in_parts():
        reader, writer = await connect(server)
        writer.write(first % len(second))
        await asyncio.sleep(0.1)
        writer.write(second)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    for answer in (asyncio.run(ask_in_parts()), asyncio.run(ask(server, first % len(second) + second))[1]):
        assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1 and b"Upgrade" in answer


def test_the_limit_on_json_is_a_setting(server):
    answer = httpx.post(f"{server.url}/predict", json={"images": [[0] * 1000]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert "the limit is 2000 (CONVSCOPE_JSON_LIMIT_BYTES)" in answer.json()["error"]["message"]
