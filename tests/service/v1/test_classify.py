import gzip
import threading

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.images.decode import decode_image
from models.images.errors import ImageError
from service.errors import STATUS
from tests.in_process import client_for, digit, encoded
from tests.models.images.image_files import png_header


@pytest.fixture(scope="module")
def expected(lenet_artifact):
    """The engine on its own: what the served probabilities must be."""
    manifest = read_manifest(lenet_artifact)
    engine = open_engine(lenet_artifact, manifest, device="cpu")
    return lambda data: engine.run(decode_image(data, manifest.input)[np.newaxis])[0][0]


def rows(answer, index=0):
    return {row["index"]: row["probability"] for row in answer.json()["results"][index]["predictions"]}


def noisy_photo():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), np.uint8)
    return Image.fromarray(pixels)


IMAGES = {
    "png": lambda: encoded(digit()),
    "larger png": lambda: encoded(Image.fromarray(digit()).resize((300, 200))),
    "palette png": lambda: encoded(noisy_photo().quantize(16)),
    "rgba png": lambda: encoded(Image.merge("RGBA", [*noisy_photo().split(), noisy_photo().split()[0]])),
    "16-bit png": lambda: encoded(digit().astype(np.uint16) * 257),
    "1-bit png": lambda: encoded(noisy_photo().convert("1")),
    "cmyk jpeg": lambda: encoded(noisy_photo().convert("CMYK"), "JPEG"),
    "grey jpeg": lambda: encoded(noisy_photo().convert("L"), "JPEG"),
    "gif": lambda: encoded(noisy_photo(), "GIF"),
    "bmp": lambda: encoded(noisy_photo(), "BMP"),
    "webp": lambda: encoded(noisy_photo(), "WEBP"),
    "tiff": lambda: encoded(noisy_photo(), "TIFF"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_format_and_mode_gives_what_the_engine_gives(client, expected, kind):
    data = IMAGES[kind]()
    answer = client.post("/v1/classify?top_k=10", content=data)
    assert answer.status_code == 200, answer.text
    found = rows(answer)
    np.testing.assert_allclose([found[index] for index in range(10)], expected(data), atol=1e-6)


def test_a_dark_image_of_16_bits_carries_a_note(client):
    dark = encoded(Image.fromarray(np.linspace(0, 3000, 64).astype(np.uint16).reshape(8, 8)))
    (result,) = client.post("/v1/classify", content=dark).json()["results"]
    assert len(result["predictions"]) == 5
    assert "reach 3,000 of 65,535, which is nearly black" in result["notes"][0]
    files = [("a", encoded(digit())), ("b", dark)]
    results = client.post("/v1/classify", files=[(name, (name, data)) for name, data in files]).json()["results"]
    assert [len(row.get("notes", [])) for row in results] == [0, 1]


def test_a_form_may_hold_the_options_and_results_name_field_and_file(client, lenet_artifact):
    files = [("one", ("a.png", encoded(digit()))), ("two", ("b.png", b"text"))]
    data = {"top_k": "3", "model": lenet_artifact.parent.name, "version": ""}
    results = client.post("/v1/classify", files=files, data=data).json()["results"]
    assert [(row["field"], row["file"]) for row in results] == [("one", "a.png"), ("two", "b.png")]
    assert len(results[0]["predictions"]) == 3
    assert results[1]["error"]["code"] == "image_unsupported"
    for query, form, says in [
        ("?top_k=2", {"top_k": "3"}, "top_k is in the query and in the form"),
        ("", {"top_k": "x"}, "top_k is 'x'"),
        ("", {"model": "no"}, "no model is called 'no'"),
        ("", {"size": "3"}, "fields without a file are model, version, top_k"),
    ]:
        answer = client.post(f"/v1/classify{query}", files=files, data=form)
        assert answer.status_code in (400, 404)
        assert says in answer.json()["error"]["message"]


def test_more_classes_than_there_are_give_all_of_them(client):
    answer = client.post("/v1/classify?top_k=99", content=encoded(digit())).json()
    assert len(answer["results"][0]["predictions"]) == 10


def test_predictions_are_sorted_and_labelled(client, lenet_artifact):
    answer = client.post("/v1/classify", content=encoded(digit())).json()
    predictions = answer["results"][0]["predictions"]
    assert (answer["model"], answer["version"]) == (lenet_artifact.parent.name, 1)
    assert len(predictions) == 5
    assert [row["probability"] for row in predictions] == sorted((r["probability"] for r in predictions), reverse=True)
    classes = read_manifest(lenet_artifact).classes
    assert all(row["label"] == classes[row["index"]] for row in predictions)


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
REFUSED = [
    ("", b"", {}, 400, "body_empty", "the body is empty"),
    ("", b"hello, world", {}, 415, "image_unsupported", "not an image"),
    ("", png_header(30_000, 30_000), {}, 413, "image_too_large", "image has 900 MP; the limit is 50 MP"),
    ("", encoded(noisy_photo())[:9000], {}, 400, "image_undecodable", "truncated"),
    ("", encoded(noisy_photo(), "JPEG")[:3000], {}, 400, "image_undecodable", "truncated"),
    ("", bytes(300_000), {}, 413, "body_too_large", "the limit is 200000"),
    ("", b"x", {"content-type": "multipart/form-data"}, 400, "body_malformed", "names no boundary"),
    ("", b"x", MULTIPART, 400, "body_malformed", "multipart/form-data: the boundary that Content-Type names"),
    ("", b"", MULTIPART, 400, "body_malformed", "cut off"),
    (
        "",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--",
        MULTIPART,
        400,
        "body_malformed",
        "part 1 does not say that it is a field of the form",
    ),
    ("", b"--x\r\n\r\nbytes\r\n--x--", MULTIPART, 400, "body_malformed", "part 1 has no headers"),
    ("", b"--x\r\nA: " + bytes(9000) + b"\r\n\r\n\r\n--x--", MULTIPART, 400, "body_malformed", "more than 8192 bytes"),
    ("", b"junk--", MULTIPART, 400, "body_malformed", "multipart/form-data: "),
    ("", b"--", {"content-type": "multipart/form-data"}, 400, "body_malformed", "boundary"),
    ("", b"--x--\r\n", MULTIPART, 400, "body_empty", "no files"),
    ("?top_k=0", b"x", {}, 400, "parameter_invalid", "top_k is '0'; wanted a whole number from 1"),
    ("?top_k=1.5", b"x", {}, 400, "parameter_invalid", "top_k is '1.5'"),
    ("?top_k=1&top_k=2", b"x", {}, 400, "parameter_invalid", "one value"),
    ("?topk=1", b"x", {}, 400, "parameter_invalid", "no parameter 'topk'; known are model, version, top_k"),
    ("?model=nobody", b"x", {}, 404, "model_unknown", "no model is called 'nobody'"),
    ("?version=9", b"x", {}, 404, "model_unknown", "has no version '9'; served are 1"),
    ("?top_k=" + "1" * 5000, b"x", {}, 400, "parameter_invalid", "top_k is '11111111111111111111'"),
    ("?top_k=%D9%A3", b"x", {}, 400, "parameter_invalid", "whole number"),  # an Arabic 3
    ("?version=" + "1" * 5000, b"x", {}, 404, "model_unknown", "has no version"),
    ("", b"--x\r\n", {"content-type": "Multipart/Form-Data; boundary=x"}, 400, "body_malformed", "cut off"),
    ("?version=%FF", b"x", {}, 404, "model_unknown", "has no version"),
]


@pytest.mark.parametrize(("query", "body", "headers", "status", "code", "message"), REFUSED)
def test_bad_requests_are_refused_with_status_code_and_reason(
    lenet_artifact, query, body, headers, status, code, message
):
    client = client_for(lenet_artifact.parent.parent, body_limit_bytes=200_000)
    answer = client.post(f"/v1/classify{query}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert message in answer.json()["error"]["message"]


def test_a_body_that_lies_about_its_length_is_stopped_while_it_streams(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, body_limit_bytes=50_000)
    answer = client.post("/v1/classify", content=(bytes(10_000) for _ in range(100)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/classify", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "path_unknown"),
        ("GET", "/v1/models/nobody", 404, "model_unknown"),
        ("GET", "/v1/models/nobody/labels", 404, "model_unknown"),
        ("GET", "/v1/models/", 404, "path_unknown"),
        ("POST", "/v1/classify/", 404, "path_unknown"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("DELETE", "/schema.json", 405, "method_not_allowed"),
        ("GET", "/page/secret.txt", 404, "path_unknown"),
        ("GET", "/page/../app.py", 404, "path_unknown"),
    ],
)
def test_unknown_paths_and_methods_have_the_error_shape(client, method, path, status, code):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_one_bad_image_fails_alone(client, expected):
    good = [encoded(digit(index)) for index in range(63)]
    files = [("image", (f"{index}.png", data)) for index, data in enumerate(good)]
    files.insert(20, ("image", ("notes.txt", b"not an image")))
    results = client.post("/v1/classify?top_k=10", files=files).json()["results"]
    assert results.pop(20)["error"]["code"] == "image_unsupported"
    for result, data in zip(results, good, strict=True):
        found = {row["index"]: row["probability"] for row in result["predictions"]}
        np.testing.assert_allclose([found[index] for index in range(10)], expected(data), atol=1e-6)


def test_only_bad_images_still_answer_one_by_one(client):
    answer = client.post("/v1/classify", files=[("a", b""), ("b", b"text")])
    assert [result["error"]["code"] for result in answer.json()["results"]] == ["image_empty", "image_unsupported"]


def test_images_in_one_request_are_counted(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, images_per_request=3)
    files = [("image", encoded(digit()))] * 3
    assert client.post("/v1/classify", files=files).status_code == 200
    for more in (1, 5):
        answer = client.post("/v1/classify", files=[*files, *files[:1] * more])
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")
        assert "the limit of one request, which is 3" in answer.json()["error"]["message"]


def test_a_text_field_in_a_form_is_refused_by_name(client):
    answer = client.post("/v1/classify", files=[("image", encoded(digit()))], data={"size": "3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_malformed")
    assert "'size' has no filename" in answer.json()["error"]["message"]


def test_a_compressed_body_is_refused_by_its_header(client):
    body = gzip.compress(encoded(digit()))
    answer = client.post("/v1/classify", content=body, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type_unsupported")
    assert "Content-Encoding is 'gzip'" in answer.json()["error"]["message"]


def form_of(*images, boundary="x"):
    """The bytes of a multipart form."""
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'.encode()
    return b"".join(part + image + b"\r\n" for image in images) + f"--{boundary}--\r\n".encode()


def test_a_form_that_was_cut_off_is_refused_and_not_answered_in_part(client):
    whole = form_of(encoded(digit(0)), encoded(digit(1)), encoded(digit(2)))
    assert len(client.post("/v1/classify", content=whole, headers=MULTIPART).json()["results"]) == 3
    for cut in (60, 8, 6):
        answer = client.post("/v1/classify", content=whole[:-cut], headers=MULTIPART)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_malformed"), cut


@pytest.mark.parametrize("charset", ["undefined", "punycode", "no-such-charset"])
def test_the_charset_of_a_form_of_files_changes_nothing(client, charset):
    headers = {"content-type": f"{MULTIPART['content-type']}; charset={charset}"}
    answers = [client.post("/v1/classify", content=form_of(encoded(digit())), headers=h) for h in (headers, MULTIPART)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert answers[0].json() == answers[1].json()


def test_bodies_held_at_once_are_bounded(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, held_limit_bytes=20_000)
    answer = client.post("/v1/classify", content=bytes(30_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "1"
    for _ in range(200):  # what was held is given back, after errors too
        assert client.post("/v1/classify", content=b"text" * 2500).status_code == 415
    assert client.post("/v1/classify", content=encoded(digit())).status_code == 200


def test_small_files_of_large_images_are_decoded_off_the_event_loop(client, monkeypatch):
    threads = []

    def noted(*args, **options):
        threads.append(threading.current_thread().name.startswith("decode"))
        return decode_image(*args, **options)

    monkeypatch.setattr("service.serving.decode_pool.decode_image", noted)
    files = [encoded(Image.new("L", (1200, 1200))), encoded(Image.new("L", (3000, 3000)), "WEBP", lossless=True)]
    for data in (*files, encoded(digit())):
        assert len(data) < 4096
        assert client.post("/v1/classify", content=data).status_code == 200
    assert threads == [True, True, False]


def test_an_unusual_mode_is_said_not_called_damaged(client):
    answer = client.post("/v1/classify", content=encoded(Image.new("F", (20, 20)), "TIFF"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "image_mode_unsupported")


def test_a_wrong_method_is_told_which_is_right(client):
    assert client.get("/v1/classify").headers["allow"] == "POST"
    assert "GET" in client.post("/v1/models").headers["allow"]


def test_a_deadline_that_passes_is_a_504(lenet_artifact):
    client = client_for(lenet_artifact.parent.parent, deadline_s=1e-6)
    answer = client.post("/v1/classify", files=[("image", encoded(noisy_photo()))] * 2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_passed")


def test_damaged_images_are_classified_or_refused_with_the_decoders_reason(client, lenet_artifact):
    spec = read_manifest(lenet_artifact).input

    def wanted(data):
        try:
            decode_image(data, spec)
        except ImageError as error:
            return STATUS[type(error)], error.code
        return 200, None

    random = np.random.default_rng(5)
    for form in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        whole = np.frombuffer(encoded(noisy_photo(), form), np.uint8)
        for _ in range(25):
            damaged = whole.copy()
            where = random.integers(0, len(damaged), 8)
            damaged[where] = random.integers(0, 256, 8)
            data = damaged[: random.integers(1, len(damaged))].tobytes()
            answer = client.post("/v1/classify", content=data)
            code = answer.json()["error"]["code"] if answer.is_error else None
            assert (answer.status_code, code) == wanted(data), (form, answer.text)
