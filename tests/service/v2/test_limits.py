"""What the Open Inference Protocol's infer refuses because it is too much, and what random damage does to it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from export.artifact.manifest import read_manifest
from models.images.decode import decode_image
from tests.in_process import client_for
from tests.real_server import until
from tests.service.scrape import scrape, total
from tests.service.v2.v2_requests import BYTES, INFER, PIXELS, PNG, ask, binary, element, with_bytes


def test_json_that_would_stop_the_event_loop_is_refused(client):
    alone = client.post(INFER, content=b" " * (5 * 2**20))
    assert (alone.status_code, alone.json()["error"]) == (
        413,
        "the body has 5242880 bytes; the limit is 4194304 (CONVSCOPE_JSON_LIMIT_BYTES)",
    )
    before = client.post(INFER, **binary(ask(), b" " * (5 * 2**20), 5 * 2**20))
    assert before.status_code == 413
    assert "the JSON has 5242880 bytes; the limit is 4194304" in before.json()["error"]


def test_the_servers_limits_hold(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, body_limit_bytes=2000, images_per_request=2, image_limit_pixels=8)
    three = bytes(3 * PIXELS)
    too_long = client.post(INFER, **binary(with_bytes(three, shape=[3, 28, 28, 1]), three))
    assert (too_long.status_code, "the limit is 2000" in too_long.json()["error"]) == (413, True)
    tail = element(PNG) * 3
    too_many = client.post(INFER, **binary(with_bytes(tail, datatype="BYTES", shape=[3]), tail))
    assert (too_many.status_code, too_many.json()["error"]) == (
        413,
        "3 images; the limit of one request is 2 (CONVSCOPE_IMAGES_PER_REQUEST)",
    )
    tail = element(PNG)
    too_large = client.post(INFER, **binary(with_bytes(tail, **BYTES), tail))
    assert (too_large.status_code, "MP; the limit is" in too_large.json()["error"]) == (413, True)


def test_a_full_queue_and_a_passed_deadline_have_their_statuses_and_are_counted(lenet_artifact):
    settings = {"batch_wait_ms": 10_000, "deadline_s": 2}  # a batch that is not full would start after the deadline
    client = client_for(lenet_artifact, queue_size=4, images_per_request=4, max_batch_size=64, **settings)
    tail = element(PNG) * 3
    request_ = binary(with_bytes(tail, datatype="BYTES", shape=[3]), tail)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, INFER, **request_)
        until(lambda: total(scrape(client), "convscope_queue_images") == 3)
        full = client.post(INFER, **request_)
        late = waiting.result()
    assert (late.status_code, "no answer within 2 s" in late.json()["error"]) == (504, True)
    assert (full.status_code, "3 more do not fit" in full.json()["error"]) == (429, True)
    assert int(full.headers["retry-after"]) >= 1
    (stats,) = client.get("/v2/models/stats").json()["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] == 1  # the late one counts when the next batch is made
    assert stats["inference_count"] == 0


def test_random_damage_to_a_request_is_never_a_500(client, lenet_artifact):
    spec = read_manifest(lenet_artifact).input
    pixels = decode_image(PNG, spec).tobytes()
    sound = [binary(with_bytes(pixels), pixels), binary(with_bytes(element(PNG), **BYTES), element(PNG))]
    random = np.random.default_rng(0)
    for index in range(400):
        whole = sound[index % 2]
        content = bytearray(whole["content"])
        for _ in range(random.integers(0, 4)):
            content[random.integers(len(content))] = random.integers(256)
        del content[random.integers(len(content)) if random.random() < 0.3 else len(content) :]
        length = whole["headers"]["Inference-Header-Content-Length"]
        if random.random() < 0.3:
            length = str(random.integers(0, len(content) + 9))
        answer = client.post(INFER, content=bytes(content), headers={"Inference-Header-Content-Length": length})
        assert answer.status_code in (200, 400, 404, 413, 415, 422), (index, answer.text)
        assert list(answer.json()) == ["error"] or answer.status_code == 200, (index, answer.text)
