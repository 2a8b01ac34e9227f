import base64
import io

import numpy as np
import pytest
from PIL import Image

from export.predictor import Predictor
from service.inspection.references.index import open_index
from tests.in_process import client_for, digit, encoded


@pytest.fixture(scope="module")
def client(indexed_artifact):
    return client_for(indexed_artifact.parent.parent)


def ask(client, query="", layer="conv1", channel="2", **headers):
    return client.get(f"/v1/models/lenet/layers/{layer}/channels/{channel}/references{query}", headers=headers)


def test_the_references_of_a_channel(client, indexed_artifact):
    answer = ask(client).json()
    wanted = open_index(Predictor.open(indexed_artifact)).channel("conv1", 2)
    assert answer["data"] == {"name": "digits", "split": "test", "images": 359}
    assert [one["image"] for one in answer["references"]] == [one.image for one in wanted.references]
    for one, reference in zip(answer["references"], wanted.references, strict=True):
        assert one["largest"] == pytest.approx(reference.largest)
        assert tuple(one["position"]) == reference.position
        assert one["receptive_field"]["top"] == one["position"][0] - 2
        with Image.open(io.BytesIO(base64.b64decode(one["crop"]))) as crop:
            np.testing.assert_array_equal(np.asarray(crop), reference.crop)
        with Image.open(io.BytesIO(base64.b64decode(one["picture"]))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), reference.picture)
    assert [one["response"] for one in answer["classes"]] == pytest.approx([one[2] for one in wanted.classes])
    assert answer["normal"]["low"] <= answer["normal"]["mean"] <= answer["normal"]["high"]
    vector = ask(client, layer="fc.2", channel=9).json()["references"]
    assert {(one["position"], one["receptive_field"]) for one in vector} == {(None, None)}


def test_the_crops_as_a_picture(client):
    with Image.open(io.BytesIO(ask(client, "?format=png").content)) as strip:
        assert strip.format == "PNG" and strip.width == 3 * 116 + 4


def test_a_client_that_has_the_answer_is_told_so(client):
    first = ask(client)
    again = ask(client, **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert ask(client, channel=3, **{"if-none-match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize(
    ("query", "layer", "channel", "status", "code"),
    [
        ("", "conv1", "6", 404, "unit_unknown"),
        ("", "conv1", "-1", 404, "unit_unknown"),
        ("", "conv1", "x", 404, "unit_unknown"),
        ("", "conv1", "9" * 30, 404, "unit_unknown"),
        ("", "conv9", "0", 404, "layer_unknown"),
        ("?format=gif", "conv1", "0", 400, "parameter_invalid"),
        ("?top=3", "conv1", "0", 400, "parameter_invalid"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, query, layer, channel, status, code):
    answer = ask(client, query, layer, channel)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_without_an_index_the_command_is_named(lenet_artifact):
    answer = ask(client_for(lenet_artifact.parent.parent))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_references")
    assert "convscope index ARTIFACT --data DATASET makes one" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["feature-maps", "explain?method=occlusion"])
def test_inspections_say_how_normal_the_image_is(client, path):
    odd = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    found = {}
    for name, image in (("digit", digit(1700)), ("noise", odd)):
        answer = client.post(f"/v1/models/lenet/{path}", content=encoded(image)).json()
        assert answer["references"] == {"name": "digits", "split": "test", "images": 359}
        if "layers" in answer:
            found[name] = {layer["name"]: layer["normality"] for layer in answer["layers"]}
        else:
            found[name] = {row["layer"]: row for row in answer["normality"]}
    assert list(found["digit"]) == list(found["noise"]) and len(found["digit"]) == 12
    assert not found["digit"]["conv1"]["unusual"]
    odd = found["noise"]["conv1"]
    assert odd["unusual"] and odd["distance"] > 2 * odd["limit"] and odd["nearer"] == 1
    worst = odd["channels"][0]
    assert abs(worst["mean"] - worst["normal_mean"]) > 3 * worst["normal_std"]


def test_without_an_index_nothing_is_called_normal(lenet_artifact):
    plain = client_for(lenet_artifact.parent.parent)
    maps = plain.post("/v1/models/lenet/feature-maps", content=encoded(digit())).json()
    assert maps["references"] is None and all("normality" not in layer for layer in maps["layers"])
    explained = plain.post("/v1/models/lenet/explain?method=occlusion", content=encoded(digit())).json()
    assert (explained["references"], explained["normality"]) == (None, [])
