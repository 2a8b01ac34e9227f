"""Requests as people write them with curl, against a real server: answered, or refused with what would be right."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.in_process import digit, encoded

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    files = {form: encoded(photo, form.upper()) for form in ("png", "jpeg", "gif", "bmp", "webp", "tiff")}
    files["digit.png"] = encoded(digit())
    for name, data in files.items():
        (path / name).write_bytes(data)
    text = base64.b64encode(files["digit.png"])
    (path / "text").write_bytes(text)
    (path / "lines").write_bytes(base64.encodebytes(files["png"]))
    (path / "url").write_bytes(b"data:image/png;base64," + text)
    (path / "json").write_text(json.dumps({"image": text.decode(), "top_k": 2}))
    return path


@pytest.fixture
def curl(server, folder):
    def run(*words):
        command = ["curl", "-s", "-w", "\n%{http_code}", *words, f"{server.url}/v1/classify"]
        answer, _, status = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.rpartition("\n")
        return int(status), json.loads(answer)

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("--data-binary", "@digit.png"),
        ("-T", "digit.png", "-X", "POST"),
        ("-F", "a=@digit.png"),
        ("-F", "a=@digit.png;encoder=base64"),
        ("-F", "a=@digit.png;encoder=binary"),
        ("-d", "@json"),
        ("--json", "@json"),
        ("-H", "Content-Type: application/json", "-d", "@json"),
    ],
)
def test_these_are_answered(curl, words):
    status, answer = curl(*words)
    assert status == 200, answer
    assert answer["results"][0]["predictions"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *((("-d", f"@{form}"), "curl --data-binary @FILE") for form in ("png", "jpeg", "gif", "bmp", "webp", "tiff")),
        (("--data-binary", "@text"), "the body is an image in base64; send the bytes themselves, or the text in JSON"),
        (("-d", "@lines"), "the body is an image in base64"),
        (("-d", "@url"), "the body is a data: URL; send the bytes themselves"),
        (("--data-urlencode", "image@text"), "carries no files; send multipart/form-data (curl -F image=@FILE)"),
        (("-F", "a=@digit.png;encoder=quoted-printable"), "'quoted-printable'; wanted binary or base64"),
        (("-F", "a=<text"), "'a' has no filename and no image's Content-Type; images in base64 go into JSON"),
        (("--json", '{"image": "@digit.png"}'), "image is not base64: character 1 is wrong, in '@digit.p'"),
    ],
)
def test_these_are_refused_with_what_would_be_right(curl, words, says):
    status, answer = curl(*words)
    assert status in (400, 415)
    assert says in answer["error"]["message"]
