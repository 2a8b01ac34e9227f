import asyncio
import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from export.predictor import Predictor
from service.inspection.explain.explanation import Explainer
from service.inspection.explain.methods import METHODS
from service.inspection.explain.watch import Watch
from tests.in_process import client_for, digit, encoded

PICTURE = encoded(np.kron(digit(), np.ones((5, 9), np.uint8)))  # 40 x 72


@pytest.fixture(scope="module")
def client(lenet_artifact):
    return client_for(lenet_artifact.parent.parent)


def ask(client, query, content=PICTURE, **headers):
    return client.post(f"/v1/models/lenet/explain?{query}", content=content, headers=headers)


def opened(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def test_the_map_is_the_one_of_the_inspection(client, lenet_artifact):
    model = Predictor.open(lenet_artifact)
    explainer = Explainer(model, model.decode(PICTURE))
    wanted = explainer.explain(METHODS["ablationcam"], 4, layer="conv2")
    answer = ask(client, "method=ablationcam&class=4&layer=conv2").json()
    np.testing.assert_allclose(answer["map"]["values"], wanted.values, rtol=1e-5)
    assert (answer["map"]["height"], answer["map"]["width"]) == (28, 28)
    assert (answer["layer"], answer["grid"], answer["file"]) == ("conv2", [10, 10], "model.onnx")
    assert answer["minimum"] == pytest.approx(wanted.values.min())
    assert answer["maximum"] == pytest.approx(wanted.values.max())
    assert answer["class"]["label"] == "4"
    assert answer["class"]["logit"] == pytest.approx(explainer.served.logits[0, 4], abs=1e-5)
    assert answer["served"]["maximum_difference"] < 1e-5
    assert (answer["empty"], answer["trust"]) == (False, None)
    assert opened(base64.b64decode(answer["overlay"])).shape == (28, 28, 3)


def test_the_defaults_are_grad_cam_of_the_predicted_class(client):
    answer = ask(client, "").json()
    assert (answer["method"], answer["file"], answer["layer"]) == ("gradcam", "weights.safetensors", "pool_1")
    assert answer["class"]["index"] == answer["predictions"][0]["index"]
    assert answer == ask(client, f"method=gradcam&class={answer['class']['label']}&layer=pool_1").json()


def test_map_and_overlay_come_at_the_pictures_size_too(client):
    answer = ask(client, "method=occlusion&size=picture").json()
    values = np.array(answer["map"]["values"])
    assert values.shape == (answer["map"]["height"], answer["map"]["width"]) == (40, 72)
    overlay = opened(base64.b64decode(answer["overlay"]))
    assert overlay.shape == (40, 72, 3)
    png = ask(client, "method=occlusion&size=picture&format=png")
    assert png.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(opened(png.content), overlay)
    picture = np.repeat(opened(PICTURE)[..., None], 3, axis=2)
    nowhere = values <= 0
    np.testing.assert_array_equal(overlay[nowhere], picture[nowhere])
    assert np.abs(overlay[values == values.max()].astype(int) - (253, 231, 37)).max() < 60
    assert opened(ask(client, "method=occlusion&format=png").content).shape == (28, 28, 3)


def test_a_turned_picture_gets_an_overlay_that_is_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(PICTURE)) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    query = "method=occlusion&size=picture"
    assert ask(client, query, buffer.getvalue()).json() == ask(client, query).json()


def test_all_methods_are_compared_in_a_table(client):
    answer = ask(client, "method=all").json()
    rows = {row["method"]: row for row in answer["methods"]}
    assert list(rows) == list(METHODS)
    assert "CAM needs global average pooling" in rows.pop("cam")["reason"]
    for row in rows.values():
        assert row["trust"]["fractions"][0] == 0
        assert row["trust"]["fractions"][-1] == 1
        assert len(row["trust"]["deletion"]) == len(row["trust"]["insertion"]) == 51
    one = ask(client, "method=layercam&evaluate=true").json()
    assert one["trust"] == rows["layercam"]["trust"]


def test_an_empty_map_is_said_to_be_one(client, monkeypatch):
    monkeypatch.setattr(
        "service.inspection.explain.explanation._OF_GRADIENTS", {"gradcam": lambda *_: np.zeros((5, 5), np.float32)}
    )
    answer = ask(client, "evaluate=true&method=gradcam").json()
    assert (answer["empty"], answer["trust"], answer["minimum"], answer["maximum"]) == (True, None, 0, 0)
    assert not np.any(answer["map"]["values"])


@pytest.mark.parametrize(
    ("query", "status", "code", "part"),
    [
        ("method=lime", 400, "parameter_invalid", "wanted one of cam, scorecam, ablationcam"),
        ("class=ten", 400, "parameter_invalid", "wanted 0 to 9 or one of 0, 1, 2"),
        ("class=10", 400, "parameter_invalid", "wanted 0 to 9"),
        ("method=saliency&layer=conv1", 400, "parameter_invalid", "saliency explains the pixels"),
        ("method=gradcam&samples=9", 400, "parameter_invalid", "gradcam has no such number"),
        ("method=rise&samples=10001", 400, "parameter_invalid", "from 1 to 10000"),
        ("method=rise&samples=0", 400, "parameter_invalid", "from 1 to 10000"),
        ("method=all&format=png", 400, "parameter_invalid", "a table in JSON"),
        ("evaluate=yes", 400, "parameter_invalid", "wanted one of false, true"),
        ("seed=-1", 400, "parameter_invalid", "whole number"),
        ("layer=fc.0", 404, "layer_unknown", "fc.0 is 120, which is no grid over the image; those that will do"),
        ("layer=cnv1", 404, "layer_unknown", "those that will do are conv1, relu, pool, conv2, relu_1, pool_1"),
        ("method=cam", 404, "layer_unknown", "CAM needs global average pooling and one linear layer after pool_1"),
        ("methods=cam", 400, "parameter_invalid", "known are method"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_the_reason(client, query, status, code, part):
    answer = ask(client, query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert part in answer.json()["error"]["message"]


def test_bad_images_and_unknown_models_are_refused_as_elsewhere(client):
    assert ask(client, "", content=b"no image").status_code == 415
    assert ask(client, "", content=PICTURE[:60]).status_code == 400
    assert client.post("/v1/models/other/explain", content=PICTURE).status_code == 404


def test_an_answer_has_a_limit(lenet_artifact):
    limited = client_for(lenet_artifact.parent.parent, inspection_limit_json_values=2000)
    answer = ask(limited, "method=eigencam&size=picture")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_values")
    assert "40x72 values; the limit is 2000" in answer.json()["error"]["message"]
    assert ask(limited, "method=eigencam&size=picture&format=png").status_code == 200


def events(answer):
    """Names and data of server-sent events."""
    for event in answer.text.strip().split("\n\n"):
        name, data = event.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_progress_comes_as_server_sent_events(client):
    answer = ask(client, "method=rise&samples=640", accept="text/event-stream")
    assert answer.headers["content-type"] == "text/event-stream"
    *progress, (last, result) = events(answer)
    assert {name for name, _ in progress} <= {"progress"}
    done = [data["done"] for _, data in progress]
    assert done == sorted(done)
    assert all(data["total"] == 640 and data["method"] == "rise" for _, data in progress)
    assert last == "result"
    assert result == ask(client, "method=rise&samples=640").json()


def test_an_error_ends_the_events(client):
    ((name, data),) = events(ask(client, "layer=cnv1", accept="text/event-stream"))
    assert (name, data["error"]["code"]) == ("error", "layer_unknown")
    assert ask(client, "method=lime", accept="text/event-stream").status_code == 400  # known before the events begin


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_work_stops_at_the_deadline(lenet_artifact, monkeypatch, accept):
    limited = client_for(lenet_artifact.parent.parent, deadline_s=0.2)
    stopped = threading.Event()
    wait_until_stopped(monkeypatch, stopped)
    answer = ask(limited, "method=occlusion", accept=accept)
    error = answer.json()["error"] if accept == "application/json" else dict(events(answer))["error"]["error"]
    assert error["code"] == "deadline_passed"
    assert stopped.wait(10)


@pytest.mark.parametrize("accept", [b"application/json", b"text/event-stream"])
def test_work_stops_when_the_client_goes(client, monkeypatch, accept):
    """A real disconnect reaches the application as a message; the test client sends none before the answer."""
    stopped, begun = threading.Event(), threading.Event()
    wait_until_stopped(monkeypatch, stopped, begun)

    async def run():
        messages = iter([{"type": "http.request", "body": PICTURE, "more_body": False}])

        async def receive():
            if (message := next(messages, None)) is not None:
                return message
            await asyncio.to_thread(begun.wait, 10)
            return {"type": "http.disconnect"}

        async def send(message):
            assert message["type"] == "http.response.start" or message.get("more_body")

        scope = {
            "type": "http", "method": "POST", "path": "/v1/models/lenet/explain", "query_string": b"method=occlusion",
            "headers": [(b"accept", accept)], "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await client.app(scope, receive, send)
        await asyncio.to_thread(stopped.wait, 10)

    asyncio.run(run())
    assert stopped.is_set()


def wait_until_stopped(monkeypatch, stopped, begun=None):
    """Makes a method that works until it is not wanted any more."""

    def endless(served, _index):
        watch: Watch = served.watch
        if begun:
            begun.set()
        while not watch.cancelled():
            threading.Event().wait(0.01)
        stopped.set()
        return list(watch.batches(1, 1))

    monkeypatch.setattr("service.inspection.explain.perturbation.occlusion", endless)
