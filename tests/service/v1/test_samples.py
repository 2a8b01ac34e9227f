import base64
import io

import numpy as np
import pytest
from PIL import Image

from export.artifact.golden import load_golden
from export.artifact.manifest import read_manifest
from models.images.decode import decode_image
from tests.conftest import RAW_COUNT, digit_images


def ask(client, path="", **headers):
    return client.get(f"/v1/models/lenet/samples{path}", headers=headers)


def test_the_samples_are_the_golden_images_with_the_trained_networks_answers(client, lenet_artifact):
    answer = ask(client).json()
    manifest = read_manifest(lenet_artifact)
    _, probabilities = load_golden(lenet_artifact, manifest)
    assert [row["index"] for row in answer["samples"]] == list(range(RAW_COUNT))
    for row, wanted, image in zip(answer["samples"], probabilities, digit_images(1), strict=False):
        assert (row["height"], row["width"]) == image.shape
        assert row["prediction"]["index"] == wanted.argmax()
        assert row["prediction"]["probability"] == pytest.approx(wanted.max(), abs=1e-6)


def test_a_sample_is_classified_as_recorded(client, lenet_artifact):
    image = ask(client, "/3").content
    with Image.open(io.BytesIO(image)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), digit_images(1)[3])
    assert decode_image(image, read_manifest(lenet_artifact).input).shape == (28, 28, 1)
    wanted = ask(client).json()["samples"][3]["prediction"]
    found = client.post("/v1/classify", content=image).json()["results"][0]["predictions"][0]
    assert found["label"] == wanted["label"]
    assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-5)


def test_a_sample_as_json_is_its_row_and_its_file_which_can_be_sent_as_it_is(client):
    answer = ask(client, "/3?format=json").json()
    image = answer.pop("image")
    assert base64.b64decode(image) == ask(client, "/3").content
    assert answer == ask(client).json()["samples"][3]
    found = client.post("/v1/classify", json={"image": image}).json()["results"][0]["predictions"][0]
    assert found["label"] == answer["prediction"]["label"]
    refused = ask(client, "/3?format=gif")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "parameter_invalid")


@pytest.mark.parametrize("path", ["", "/0", "/0?format=json"])
def test_a_client_that_has_the_answer_is_told_so(client, path):
    first = ask(client, path)
    again = ask(client, path, **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("index", ["8", "-1", "x", "9" * 30])
def test_no_such_sample(client, index):
    answer = ask(client, f"/{index}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "sample_unknown")
