"""Requests leave no reference cycles: the garbage collector would stop the worker to find them."""

import asyncio
import base64
import gc
import json

import numpy as np
import pytest

from tests.in_process import digit, encoded

PNG = encoded(digit(3))
TEXT = base64.b64encode(PNG).decode()
FORM = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + PNG + b"\r\n--x--\r\n"
TENSOR = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": np.zeros(784, int).tolist()}
TWO = json.dumps({"images": [TEXT, "aGVsbG8="]}).encode()
BODIES = {  # path, body, media type, status
    "image": ("/v1/classify", PNG, "image/png", 200),
    "form": ("/v1/classify", FORM, "multipart/form-data; boundary=x", 200),
    "JSON": ("/v1/classify", json.dumps({"image": TEXT}).encode(), "application/json", 200),
    "instances": (
        "/v1/models/lenet:predict",
        json.dumps({"instances": [{"b64": TEXT}]}).encode(),
        "application/json",
        200,
    ),
    "tensors": ("/v2/models/lenet/infer", json.dumps({"inputs": [TENSOR]}).encode(), "application/json", 200),
    "feature maps": ("/v1/models/lenet/feature-maps", PNG, "image/png", 200),
    "no image": ("/v1/classify", b"hello", "image/png", 415),
    "a damaged image": ("/v1/classify", PNG[:60], "image/png", 400),
    "nothing": ("/v1/classify", b"", "image/png", 400),
    "a unit": ("/v1/models/lenet/unit?layer=conv1&index=0,3,3", PNG, "image/png", 200),
    "a bad one among others": ("/v1/classify", TWO, "application/json", 200),
    "a wrong option": ("/v1/classify?top_k=0", PNG, "image/png", 400),
    "no model": ("/v1/models/none/feature-maps", PNG, "image/png", 404),
}
COUNT = 40


async def request(app, path, body, kind):
    """The status of one answer, without a client, which would leave garbage of its own."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": path.partition("?")[2].encode(),
        "headers": [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    messages, statuses = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("name", BODIES)
def test_a_request_leaves_no_cycles(client, name):
    path, body, kind, status = BODIES[name]

    async def collected():
        for _ in range(5):  # what is made at the first time may stay
            assert await request(client.app, path, body, kind) == status
        gc.collect()
        gc.disable()
        try:
            for _ in range(COUNT):
                await request(client.app, path, body, kind)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(collected()) < COUNT
