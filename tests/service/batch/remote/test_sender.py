"""A job on a real server gives the rows of a local one, whatever happens to the server meanwhile."""

import json
import os
import shutil
import signal
import socket
import threading

import httpx
import pytest

from export.pipeline.export import export_checkpoint
from service.batch.job import Job, Request
from service.batch.network import Wanted
from service.batch.remote.server import Address, ServerError
from service.batch.remote.window import Window
from tests.conftest import make_checkpoint
from tests.real_server import free_port, running_server, stop, until
from tests.service.batch.conftest import by_key, read_rows, write_parquet, write_tar

BLOCK = 32


def request(server, source, out, **changes):
    fields = {"block_rows": BLOCK, "batch_size": 4, **changes}
    address = server if isinstance(server, Address) else Address(url=server.url)
    return Request(source=str(source), out=str(out), opening=address, wanted=Wanted(top_k=3), **fields)


def run_job(*arguments, tell=lambda record: None, **changes):
    return Job(request(*arguments, **changes)).run(tell)


def check_rows(rows, expected):
    found = by_key(rows)
    assert found.keys() == expected.keys()
    for key, best in expected.items():
        assert found[key]["labels"] == [label for label, _ in best]
        assert found[key]["probabilities"] == pytest.approx([value for _, value in best], abs=1e-5)
        assert found[key]["error_code"] is None


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_the_rows_are_those_of_a_local_job(kind, server, tmp_path, digits_folder, files, expected):
    source = digits_folder
    if kind == "tar":
        source = write_tar(tmp_path / "digits.tar", files, digits_folder)
    elif kind == "parquet":
        source = write_parquet(tmp_path / "digits.parquet", files, digits_folder)
    done = run_job(server, source, tmp_path / "rows.parquet")
    rows = read_rows(tmp_path / "rows.parquet")
    check_rows(rows, expected)
    assert done.rows_now == len(rows) and done.seconds.server > 0
    assert [row["key"] for row in rows] == sorted(expected)


def test_arrays_are_sent_as_they_are(server, run, tmp_path, lenet_artifact):
    for name, words in (("local", ["--artifact", lenet_artifact]), ("remote", ["--url", server.url])):
        assert run("batch", "digits", *words, "--out", tmp_path / f"{name}.parquet").status == 0
    local, remote = (by_key(read_rows(tmp_path / f"{name}.parquet")) for name in ("local", "remote"))
    assert {key: (row["label"], row["truth"]) for key, row in local.items()} == {
        key: (row["label"], row["truth"]) for key, row in remote.items()
    }


@pytest.mark.parametrize("batch_size", [1, 4])
def test_errors_of_images_become_rows_with_the_servers_code(batch_size, server, tmp_path, files):
    source = tmp_path / "images"
    source.mkdir()
    whole = files[0].read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "empty.png").write_bytes(b"")
    (source / "good.png").write_bytes(whole)
    (source / "gone.png").symlink_to("nowhere.png")
    (source / "text.png").write_text("hello")
    done = run_job(server, source, tmp_path / "rows.parquet", batch_size=batch_size)
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    assert {key: row["error_code"] for key, row in rows.items()} == {
        "cut.png": "image_undecodable",
        "empty.png": "image_empty",
        "good.png": None,
        "gone.png": "file_unreadable",
        "text.png": "image_unsupported",
    }
    alone = httpx.post(f"{server.url}/v1/classify", content=b"hello").json()["error"]
    assert rows["text.png"]["error_message"] == alone["message"] and done.statistics.failed == 4


def test_nothing_is_lost_where_hardly_any_image_may_wait(
    lenet_artifact, tmp_path, digits_folder, expected, monkeypatch
):
    refused, sizes = [], []

    def count(window, token, real=Window.refused):
        refused.append(token)
        real(window, token)
        sizes.append(window.size)

    monkeypatch.setattr(Window, "refused", count)
    settings = {"queue_size": 2, "images_per_request": 2, "max_batch_size": 1, "concurrency": 3}
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", **settings) as small:
        busy = threading.Event()

        def load():  # another client, so that 429s are certain
            while not busy.is_set():
                httpx.post(
                    f"{small.url}/v1/classify", files=[("image", next(digits_folder.rglob("*.png")).read_bytes())]
                )

        others = [threading.Thread(target=load) for _ in range(3)]
        for one in others:
            one.start()
        try:
            run_job(small, digits_folder, tmp_path / "rows.parquet", batch_size=8)
        finally:
            busy.set()
            for one in others:
                one.join()
    check_rows(read_rows(tmp_path / "rows.parquet"), expected)
    assert refused and min(sizes) < 4


def test_a_server_that_is_killed_and_started_again_loses_nothing(lenet_artifact, tmp_path, digits_folder, expected):
    port, killed = free_port(), []
    again = None

    def tell(record):
        nonlocal again
        if len(killed) == 0:
            os.killpg(first.process.pid, signal.SIGKILL)
            first.process.wait()
            killed.append(record.name)
            again = running_server(lenet_artifact.parent.parent, tmp_path / "log2", port=port)
            threading.Thread(target=again.__enter__).start()

    with running_server(lenet_artifact.parent.parent, tmp_path / "log", port=port) as first:
        try:
            done = run_job(first, digits_folder, tmp_path / "rows.parquet", tell=tell)
        finally:
            if again:
                again.__exit__(None, None, None)
    assert killed and done.rows_now == len(expected)
    check_rows(read_rows(tmp_path / "rows.parquet"), expected)


@pytest.mark.acceptance
def test_a_job_stops_when_the_server_stays_away_and_can_be_resumed(lenet_artifact, tmp_path, digits_folder, expected):
    out, port = tmp_path / "rows.parquet", free_port()
    killed = []

    def tell(record):
        if not killed:
            stop(first.process)
            killed.append(record)

    with running_server(lenet_artifact.parent.parent, tmp_path / "log", port=port) as first:
        address = Address(url=first.url, patience_s=1)
        with pytest.raises(ServerError, match=r"no answer from .* for \d+ s: .*; stopped, --resume goes on"):
            run_job(address, digits_folder, out, tell=tell)
    with pytest.raises(ServerError, match="no answer from"):
        run_job(address, digits_folder, out, resume=True)
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", port=port):
        done = run_job(address, digits_folder, out, resume=True)
    assert 0 < done.rows_now < len(expected)
    check_rows(read_rows(out), expected)


@pytest.mark.acceptance
def test_another_artifact_is_noticed_when_resuming_and_while_running(lenet_artifact, tmp_path, digits_folder):
    folder, out, port = tmp_path / "artifacts", tmp_path / "rows.parquet", free_port()
    shutil.copytree(lenet_artifact.parent.parent, folder)
    other = export_checkpoint(make_checkpoint(tmp_path / "lenet", seed=1), out=tmp_path / "others", formats=["onnx"])

    def tell(record):
        nonlocal again
        if again is None:
            stop(first.process)
            shutil.rmtree(folder / "lenet")
            shutil.copytree(other.parent, folder / "lenet")
            again = running_server(folder, tmp_path / "log2", port=port)
            again.__enter__()

    again = None
    with running_server(folder, tmp_path / "log", port=port) as first:
        try:
            with pytest.raises(ServerError, match="no longer serves the lenet:1 that the job began with; stopped"):
                run_job(first, digits_folder, out, tell=tell)
            with pytest.raises(ValueError, match=r"its rows would not fit together: artifact was 'lenet:1 .* and is"):
                run_job(first, digits_folder, out, resume=True)
        finally:
            if again:
                again.__exit__(None, None, None)


@pytest.mark.acceptance
def test_a_new_version_does_not_mix_with_the_old(lenet_artifact, tmp_path, digits_folder):
    folder, out = tmp_path / "artifacts", tmp_path / "rows.jsonl"
    shutil.copytree(lenet_artifact.parent.parent, folder)
    with running_server(folder, tmp_path / "log", watch_s=0) as first:
        run_job(first, digits_folder, out)
    export_checkpoint(make_checkpoint(tmp_path / "lenet", seed=1), out=folder, formats=["onnx"])
    with running_server(folder, tmp_path / "log", watch_s=0) as second:
        with pytest.raises(ValueError, match=r"artifact was 'lenet:1 .*' and is 'lenet:2 .*'"):
            run_job(second, digits_folder, out, resume=True)
        assert run_job(Address(url=second.url, model="lenet:1"), digits_folder, out, resume=True).rows_now == 0


def test_a_token_is_sent_and_a_wrong_one_refused(lenet_artifact, run, tmp_path, digits_folder, monkeypatch):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", token="correct-horse") as locked:
        words = ["batch", digits_folder, "--url", locked.url, "--out", tmp_path / "rows.jsonl"]
        for token in (None, "wrong-horse"):
            if token:
                monkeypatch.setenv("CONVSCOPE_TOKEN", token)
            done = run(*words)
            assert done.status == 1 and "Authorization: Bearer" in done.err and locked.url in done.err
            assert not (tmp_path / "rows.jsonl.parts").exists()
        monkeypatch.setenv("CONVSCOPE_TOKEN", "correct-horse")
        assert run(*words).status == 0
    assert "correct-horse" not in (tmp_path / "rows.jsonl.parts" / "_job" / "job.json").read_text()
    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]) == 180


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet"], "resnet"),
        (["--model", "lenet:7"], "7"),
        (["--top-k", "3", "--logits"], "--logits goes with --artifact; a server has settings of its own"),
        (["--artifact", "x"], "give either --artifact DIR or --url URL"),
    ],
)
def test_what_the_server_does_not_have_is_refused_first(words, message, server, run, tmp_path, digits_folder):
    done = run("batch", digits_folder, "--url", server.url, "--out", tmp_path / "rows.jsonl", *words)
    assert done.status != 0 and message in done.err
    assert not (tmp_path / "rows.jsonl.parts").exists()


def test_an_address_without_a_server_is_reported(run, tmp_path, digits_folder):
    url = f"http://127.0.0.1:{free_port()}"
    done = run("batch", digits_folder, "--url", url, "--out", tmp_path / "rows.jsonl")
    assert done.status == 1 and f"no answer from {url}" in done.err


def test_a_job_begins_once_a_full_server_has_room(lenet_artifact, tmp_path, digits_folder, expected):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", concurrency=1) as full:
        url = httpx.URL(full.url)
        with socket.create_connection((url.host, url.port)) as busy:
            busy.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")  # and no more for now
            until(lambda: httpx.get(f"{full.url}/v1/models").status_code == 429)
            with pytest.raises(ServerError, match="too many requests are under way; the limit is 1"):
                Job(request(Address(url=full.url, patience_s=0.1), digits_folder, tmp_path / "none.parquet"))
            threading.Timer(1.5, busy.shutdown, [socket.SHUT_RDWR]).start()
            done = run_job(full, digits_folder, tmp_path / "rows.parquet")
    check_rows(read_rows(tmp_path / "rows.parquet"), expected)
    assert done.statistics.failed == 0
