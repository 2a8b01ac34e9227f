"""Images in JSON are answered as the same images in a form; what is no image is refused with what would be right."""

import base64
import json
import threading

import numpy as np
import pytest
from PIL import Image

from service.http.base64_text import decode_base64
from tests.in_process import client_for, digit, encoded

PNG = encoded(digit())


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def without_places(answer):
    found = answer.json()
    for result in found["results"]:
        result.pop("field", None), result.pop("file", None)
    return found


@pytest.mark.parametrize("images", [[0], [0, 1, 2], [2, "damaged", 1]])
def test_json_is_answered_as_a_form_of_the_same_images(client, images):
    files = [b"not an image" if index == "damaged" else encoded(digit(index)) for index in images]
    form = client.post("/v1/classify", files=[("image", ("a.png", data)) for data in files])
    body = {"images": [text(data) for data in files]}
    answers = [client.post("/v1/classify", json=body)]
    if len(files) == 1:
        answers.append(client.post("/v1/classify", json={"image": "data:image/png;base64," + text(files[0])}))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json() == without_places(form)


@pytest.mark.parametrize("path", ["feature-maps", "explain?method=occlusion", "unit?layer=conv1&index=0,0,0"])
def test_routes_for_one_image_take_json_too(client, path):
    path = f"/v1/models/lenet/{path}"
    bytes_answer, answer = client.post(path, content=PNG), client.post(path, json={"image": text(PNG)})
    assert (answer.status_code, answer.json()) == (200, bytes_answer.json()), answer.text
    many = client.post(path, json={"images": [text(PNG)] * 2})
    assert (many.status_code, many.json()["error"]["code"]) == (413, "too_many_images")
    option = client.post(path, json={"image": text(PNG), "top_k": 3})
    assert "options go into the query" in option.json()["error"]["message"]


def test_two_images_in_json_are_compared(client):
    answer = client.post("/v1/models/lenet/compare", json={"images": [text(PNG), text(encoded(digit(1)))]})
    assert answer.status_code == 200 and answer.json()["begins"], answer.text


def test_options_are_keys_of_the_json(client):
    body = {"image": text(PNG), "model": "lenet", "version": 1, "top_k": 3}
    answer = client.post("/v1/classify", json=body)
    assert len(answer.json()["results"][0]["predictions"]) == 3, answer.text
    same = client.post("/v1/classify", json={**body, "version": None, "top_k": "3", "model": ""})
    assert same.json() == answer.json()
    for change, query, status, says in [
        ({"model": "no"}, "", 404, "no model is called 'no'"),
        ({"top_k": 0}, "", 400, "top_k is '0'"),
        ({"top_k": 1.5}, "", 400, "top_k is a number; wanted a text or a whole number"),
        ({"top_k": True}, "", 400, "top_k is true or false"),
        ({}, "?top_k=2", 400, "top_k is in the query and in the JSON"),
        ({"size": 3}, "", 400, 'the key \'size\'; wanted {"image": "BASE64"}'),
    ]:
        refused = client.post(f"/v1/classify{query}", json={**body, **change})
        assert refused.status_code == status
        assert says in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain", None]
)
def test_json_is_known_by_its_first_character_where_clients_name_no_better_type(client, content_type):
    headers = {"content-type": content_type} if content_type else {}
    body = json.dumps({"image": text(PNG)}, indent=1).encode()
    for content in (body, b"\xef\xbb\xbf \n" + body):
        assert client.post("/v1/classify", content=content, headers=headers).status_code == 200


def test_an_image_under_the_media_type_of_json_is_still_an_image(client):
    for headers in ({"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}):
        assert client.post("/v1/classify", content=PNG, headers=headers).status_code == 200


REFUSED = [
    ({"image": "photo.png"}, 400, "body_malformed", "image is not base64: character 6 is wrong"),
    ({"images": [text(PNG), "x y"]}, 400, "body_malformed", "images[1] is not base64"),
    ({"image": ""}, 400, "image_empty", "no bytes"),
    ({"image": text(b"not an image")}, 415, "image_unsupported", "not an image"),
    ({"image": text(PNG[:60])}, 400, "image_undecodable", ""),
    ({"image": None}, 400, "body_malformed", "the JSON has no image; wanted"),
    ({"image": 3}, 400, "body_malformed", "image is a number; wanted a text in base64"),
    ({"image": [[0]]}, 400, "body_malformed", "pixels as numbers go to POST /predict"),
    ({"images": text(PNG)}, 400, "body_malformed", "images is a text; wanted a list"),
    ({"images": []}, 400, "body_empty", "images is an empty list"),
    ({"image": text(PNG), "images": [text(PNG)]}, 400, "body_malformed", "has image and images"),
    ({"instances": []}, 400, "body_malformed", "instances go to POST /v1/models/NAME:predict"),
    ({"inputs": []}, 400, "body_malformed", "inputs go to POST /v2/models/NAME/infer"),
    ({}, 400, "body_malformed", 'the JSON has no image; wanted {"image": "BASE64"}'),
    ([text(PNG)], 400, "body_malformed", 'the JSON is a list; wanted {"image": "BASE64"}'),
    (text(PNG), 400, "body_malformed", "the JSON is a text"),
    (5, 400, "body_malformed", "the JSON is a number"),
    ({"images": [text(PNG)] * 257}, 413, "too_many_images", "257 images; the limit of one request is 256"),
]


@pytest.mark.parametrize(("body", "status", "code", "says"), REFUSED)
def test_json_with_anything_else_is_refused_with_what_would_be_right(client, body, status, code, says):
    answer = client.post("/v1/classify", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b'{"image": "', b"\xff\xfe{", b"[" * 100_000, b"hello"])
def test_what_is_not_json_is_said_so(client, body):
    answer = client.post("/v1/classify", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_malformed")
    assert "the body is not JSON" in answer.json()["error"]["message"]


def test_limits_hold_for_json_and_for_what_it_encodes(lenet_artifact):
    photo = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)))  # 30 kB
    body = {"image": text(photo)}
    settings = {"json_limit_bytes": 8192, "image_limit_pixels": 20_000}
    for changes, content, status, says in [
        ({}, body, 413, "the limit is 4 times 8192 (CONVSCOPE_JSON_LIMIT_BYTES); send the bytes"),
        ({"json_limit_bytes": 16384}, body, 200, ""),
        ({"json_limit_bytes": 16384, "body_limit_bytes": 32_000}, body, 413, "the limit is 32000"),
        ({"json_limit_bytes": 16384, "held_limit_bytes": 60_000}, body, 429, "bytes of bodies are held"),
        ({}, {"image": text(encoded(Image.new("L", (500, 500))))}, 413, "image of 500x500 has 0.25 MP"),
        ({"json_limit_bytes": 16384}, {"image": text(PNG), "images": [0] * 15_000}, 413, "more than texts in it"),
    ]:
        client = client_for(lenet_artifact.parent.parent, **{**settings, **changes})
        for _ in range(3):  # what was held is given back
            answer = client.post("/v1/classify", json=content)
            assert answer.status_code == status, answer.text
            assert says in answer.text


def test_large_texts_are_decoded_off_the_event_loop(client, monkeypatch):
    threads = []

    def noted(text, name):
        threads.append(threading.current_thread())
        return decode_base64(text, name)

    monkeypatch.setattr("service.http.base64_text.decode_base64", noted)
    large = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)))
    for data in (PNG, large):
        assert client.post("/v1/classify", json={"image": text(data)}).status_code == 200
    assert threads[0].name != threads[1].name
