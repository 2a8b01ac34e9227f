import numpy as np
import pytest
from in_process import client_for, digit, encoded

from service.gate import as_pixels


@pytest.fixture(scope="module")
def client(lenet_artifact):
    return client_for(lenet_artifact.parent.parent, token="correct horse")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic correct horse"},
        {"authorization": "correct horse"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer correct horse battery"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/classify", "/predict", "/schema.json", "/anything"])
def test_without_the_token_nothing_but_health_and_the_page_answers(client, path, headers):
    answer = client.post(path, headers=headers, content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_requests_are_answered(client):
    headers = {"authorization": "bearer correct horse"}
    assert client.post("/v1/classify", headers=headers, content=encoded(digit())).status_code == 200


def test_the_page_needs_no_token(client):
    assert client.get("/").status_code == 200
    assert client.get("/page/page.js").status_code == 200


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/vnd.bentoml+pickle", "text/plain"])
def test_the_native_api_takes_json_only(lenet_artifact, kind):
    client = client_for(lenet_artifact.parent.parent)
    answer = client.post("/predict", content=b"x", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type_unsupported")


def test_pixels_of_every_level_pass():
    values = [list(range(256))]
    assert as_pixels(values).tolist() == values
    assert as_pixels(np.array(values)).dtype == np.uint8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[256]], "pixels must be from 0 to 255, got 256 to 256"),
        ([[-1, 3]], "got -1 to 3"),
        ([[0.5]], "whole numbers, got float64"),
        ("abc", "whole numbers"),
        (None, "whole numbers"),
        ({"a": 1}, "whole numbers"),
        ([True], "whole numbers, got bool"),
    ],
)
def test_what_is_not_a_pixel_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        as_pixels(value)
