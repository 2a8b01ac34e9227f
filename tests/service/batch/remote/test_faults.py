"""Answers that a sound server does not give: each image still gets its row, or the job stops."""

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.batch.job import Job, Request
from service.batch.network import Wanted
from service.batch.remote.server import ONE_PIXEL, Address, ServerError
from tests.service.batch.conftest import by_key, read_rows

CLASSES = ["cat", "dog"]


class Scripted(BaseHTTPRequestHandler):
    """Answers like convscope with the model `pets:1`; `script` decides about each body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.endswith("/graph"):
            self.answer(200, {}, etag='"one"')
        elif self.path.endswith("/labels"):
            self.answer(200, {"labels": CLASSES})
        else:
            about = {"name": "pets", "version": 1, "file": "model.onnx" if self.server.loaded else None}
            self.answer(200, {**about, "models": [about]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        images = re.findall(rb"image-\w+", body) or [body]
        result = {"predictions": [{"label": "dog", "index": 1, "probability": 0.75}]}
        refused = self.server.script(self.server.seen, images)
        for image in images:
            self.server.seen[image] += 1
        if refused is None:
            self.server.loaded = True
            self.answer(200, {"model": "pets", "version": self.server.version, "results": [result] * len(images)})
        elif refused[0] == 0:
            self.close_connection = True
        else:
            status, code, headers = refused
            self.answer(status, {"error": {"code": code, "message": f"{code} it is"}}, **headers)

    def answer(self, status, content, **headers):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # clients hang up


@pytest.fixture
def scripted(tmp_path):
    """Runs a job over 12 images on a server that follows a script; returns its rows and the server."""
    servers = []

    def call(script, *, version=1, patience_s=60.0, batch_size=4, loaded=True):
        server = Quiet(("127.0.0.1", 0), Scripted)
        server.script, server.version, server.seen, server.loaded = script, version, Counter(), loaded
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = tmp_path / "images"
        folder.mkdir()
        for number in range(12):
            (folder / f"{number:02}.png").write_bytes(f"image-{number:02}".encode())
        address = Address(url=f"http://127.0.0.1:{server.server_port}", patience_s=patience_s)
        out = tmp_path / "rows.parquet"
        fields = {"opening": address, "wanted": Wanted(top_k=1), "batch_size": batch_size}
        Job(Request(source=str(folder), out=str(out), **fields)).run(lambda record: None)
        return by_key(read_rows(out)), server

    yield call
    for server in servers:
        server.shutdown()
        server.server_close()


def bad(images):
    return b"image-05" in images


def test_an_image_on_which_inference_always_fails_gets_a_row_and_the_others_theirs(scripted):
    rows, _ = scripted(lambda seen, images: (503, "inference_failed", {}) if bad(images) else None)
    assert rows["05.png"]["error_code"] == "inference_failed"
    assert rows["05.png"]["error_message"] == "inference_failed it is"
    assert [row["label"] for key, row in rows.items() if key != "05.png"] == ["dog"] * 11


def test_an_image_that_takes_too_long_gets_a_row_though_the_server_is_silent_meanwhile(scripted):
    rows, server = scripted(
        lambda seen, images: (504, "deadline_passed", {}) if bad(images) else None, batch_size=1, patience_s=1
    )
    assert rows["05.png"]["error_code"] == "deadline_passed" and server.seen[b"image-05"] == 5
    assert sum(row["error_code"] is None for row in rows.values()) == 11


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_faults_that_pass_cost_nothing(status, scripted):
    codes = {429: "queue_full", 503: "model_not_ready", 504: "deadline_passed"}
    headers = {"retry_after": 1} if status == 429 else {}

    def script(seen, images):
        return (status, codes.get(status, ""), headers) if not seen[images[0]] % 2 and int(images[0][-1:]) % 3 else None

    rows, server = scripted(script, batch_size=1)
    assert [row["label"] for row in rows.values()] == ["dog"] * 12
    assert server.seen[b"image-01"] == 2 and server.seen[b"image-00"] == 1


def test_the_request_that_loads_a_model_is_repeated_where_the_server_is_full(scripted):
    def script(seen, images):
        return None if seen else (429, "queue_full", {"retry_after": 1})

    rows, server = scripted(script, loaded=False)
    assert server.seen[ONE_PIXEL] == 2 and [row["label"] for row in rows.values()] == ["dog"] * 12


def test_requests_are_made_smaller_where_fewer_images_are_taken(scripted):
    rows, server = scripted(lambda seen, images: (413, "too_many_images", {}) if len(images) > 1 else None)
    assert [row["label"] for row in rows.values()] == ["dog"] * 12
    assert sum(server.seen.values()) < 12 * 4


def test_a_server_that_cannot_run_anything_stops_the_job_instead_of_failing_every_row(scripted):
    with pytest.raises(ServerError, match=r"for \d+ s: inference_failed it is; stopped, --resume goes on"):
        scripted(lambda seen, images: (503, "inference_failed", {}), patience_s=4)


def test_another_version_in_an_answer_stops_the_job(scripted):
    with pytest.raises(ServerError, match="answers with 4 results of pets:2; stopped"):
        scripted(lambda seen, images: None, version=2)


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (404, "model_unknown"), (400, "parameter_invalid")]
)
def test_refusals_that_waiting_does_not_change_stop_the_job(status, code, scripted):
    with pytest.raises(ServerError, match=f"{code} it is; stopped, --resume goes on"):
        scripted(lambda seen, images: (status, code, {}))
