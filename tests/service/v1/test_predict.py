from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded
from tests.real_server import until
from tests.service.scrape import scrape, total


def test_arrays_give_what_the_engine_gives(client, lenet_artifact):
    manifest = read_manifest(lenet_artifact)
    images = np.stack([decode_image(encoded(digit(index)), manifest.input) for index in range(70)])
    answer = client.post("/predict", json={"images": images.tolist(), "model": "lenet:1"})
    wanted, _ = open_engine(lenet_artifact, manifest, device="cpu").run(images)
    np.testing.assert_allclose(answer.json(), wanted, atol=1e-6)


ZEROS = np.zeros((1, 28, 28, 1), int).tolist()


@pytest.mark.parametrize(
    ("content", "status", "code", "message"),
    [
        ({"images": ZEROS, "model": "nobody"}, 404, "model_unknown", "nobody"),
        ({"images": ZEROS, "model": 5}, 400, "body_malformed", "model must be text, got int"),
        ({"images": ZEROS, "modell": "x"}, 400, "body_malformed", "no key 'modell'"),
        ({"images": ZEROS * 300}, 413, "too_many_images", "300 images; the limit of one request is 256"),
        ({"images": [[[[0]]]]}, 422, "shape_wrong", "(1, 1, 1, 1); lenet takes (N, 28, 28, 1)"),
        ({"images": []}, 422, "shape_wrong", "(0,); lenet takes (N, 28, 28, 1)"),
        ({}, 400, "body_malformed", 'key "images"'),
        ([1], 400, "body_malformed", 'key "images"'),
        ({"images": {"a": 1}}, 400, "body_malformed", "whole numbers"),
        ({"images": [[1], [1, 2]]}, 400, "body_malformed", "rows of different lengths"),
    ],
)
def test_bad_bodies_are_refused_with_the_reason(client, content, status, code, message):
    answer = client.post("/predict", json=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"images": [[[[1e400]]]]}', b"[" * 100_000])
def test_what_is_not_json_is_refused(client, body):
    answer = client.post("/predict", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_malformed")


def test_a_body_that_would_stop_the_event_loop_is_refused(client):
    answer = client.post("/predict", content=bytes(5 * 2**20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/vnd.bentoml+pickle", "text/plain"])
def test_json_is_the_only_content_type(client, kind):
    answer = client.post("/predict", content=b"x", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type_unsupported")


def test_a_full_queue_is_a_429_that_says_when_to_come_back(lenet_artifact):
    settings = {"batch_wait_ms": 10_000, "deadline_s": 2}  # a batch that is not full would start after the deadline
    client = client_for(lenet_artifact, queue_size=4, images_per_request=4, max_batch_size=64, **settings)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/predict", json={"images": ZEROS * 3})
        until(lambda: total(scrape(client), "convscope_queue_images") == 3)
        answer = client.post("/predict", json={"images": ZEROS * 2})
        assert waiting.result().status_code == 504
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
