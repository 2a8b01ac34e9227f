"""What the statistics extension says, after known requests."""

import asyncio

import numpy as np
import pytest

from service.errors import InferenceFailed, QueueFull
from service.serving.batcher import Batcher
from service.settings import Limit
from service.telemetry.metrics import Metrics, ModelMetrics
from service.v2.statistics import model_stat
from tests.in_process import client_for, digit, encoded
from tests.service.v2.v2_requests import INFER


def infer(client, count, outputs=()):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [count, 28, 28, 1], "data": [7] * (count * 784)}
    answer = client.post(INFER, json={"inputs": [tensor], "outputs": [{"name": name} for name in outputs]})
    assert answer.status_code == 200, answer.text


def test_requests_images_and_batches_are_counted(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent)
    (before,) = client.get("/v2/models/lenet/stats").json()["model_stats"]
    assert (before["name"], before["version"], before["inference_count"]) == ("lenet", "1", 0)
    assert (before["execution_count"], before["last_inference"], before["batch_stats"]) == (0, 0, [])
    infer(client, 3)
    infer(client, 3, ["logits"])
    infer(client, 1, ["conv1"])
    client.post("/v1/classify", content=encoded(digit()))
    (after,) = client.get("/v2/models/lenet/versions/1/stats").json()["model_stats"]
    assert after == client.get("/v2/models/stats").json()["model_stats"][0]
    assert (after["inference_count"], after["execution_count"]) == (8, 4)
    assert after["last_inference"] > 1.7e12  # milliseconds
    inner = after["inference_stats"]
    assert [inner[key]["count"] for key in ("success", "fail", "queue", "compute_infer")] == [4, 0, 4, 4]
    assert inner["success"]["ns"] >= inner["compute_infer"]["ns"] > 0
    assert inner["success"]["ns"] >= inner["queue"]["ns"] > 0
    assert [(row["batch_size"], row["compute_infer"]["count"]) for row in after["batch_stats"]] == [(1, 2), (3, 2)]
    in_batches = sum(row["compute_infer"]["ns"] for row in after["batch_stats"])
    assert in_batches == pytest.approx(inner["compute_infer"]["ns"], abs=9)  # no batch was shared


def double(images):
    scores = images.reshape(len(images), -1).astype(np.float32)
    return scores, 2 * scores


def fail(images):
    raise RuntimeError("broken")


def statistics_after(run, counts, *, max_batch_size=2, queue_size=8, cancel=()):
    """Of a batcher that was given requests of so many images at once, some of which were then given up."""
    metrics = Metrics()

    async def main():
        counted = ModelMetrics(metrics, "m", 1, ())
        batcher = Batcher(
            run, max_batch_size=max_batch_size, queue_size=Limit(queue_size), executor=None, metrics=counted
        )
        futures = []
        for count in counts:
            try:
                futures.append(batcher.submit(np.zeros((count, 1, 1, 1), np.uint8)))
            except QueueFull as error:
                assert "do not fit" in str(error)
        for index in cancel:
            futures[index].cancel()
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(one, tuple | InferenceFailed | asyncio.CancelledError) for one in found)
        await asyncio.sleep(0)
        return model_stat("m", 1, metrics.values(), counted.statistics.last_s)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("run", "counts", "options", "success", "failed", "images", "batches"),
    [
        (double, [1, 1], {}, 2, 0, 2, {2: 1}),
        (double, [5], {}, 1, 0, 5, {2: 2, 1: 1}),
        (double, [1, 2, 1], {}, 3, 0, 4, {2: 2}),
        (double, [1, 1, 1], {"cancel": [1]}, 2, 1, 2, {2: 1}),
        (double, [8, 1], {"max_batch_size": 8}, 1, 1, 8, {8: 1}),  # the second finds a full queue
        (fail, [1, 1], {}, 0, 2, 0, {}),
        (fail, [5], {}, 0, 1, 0, {}),  # run in parts, failed once
    ],
)
def test_every_request_is_counted_once(run, counts, options, success, failed, images, batches):
    found = statistics_after(run, counts, **options)
    inner = found["inference_stats"]
    assert (inner["success"]["count"], inner["fail"]["count"]) == (success, failed)
    assert [inner[key]["count"] for key in ("queue", "compute_input", "compute_infer", "compute_output")] == [
        success
    ] * 4
    assert (found["inference_count"], found["execution_count"]) == (images, sum(batches.values()))
    assert {row["batch_size"]: row["compute_infer"]["count"] for row in found["batch_stats"]} == batches
