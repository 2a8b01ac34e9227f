"""Faults of files, stores and names, each of which once lost something or stopped a job for good."""

import csv
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import ConvscopeError
from service.batch import reading
from service.batch.decoding import Decoders, Slots
from service.batch.parts import read_failures
from service.batch.storage import Folder
from tests.conftest import make_spec
from tests.service.batch.conftest import (
    BATCH,
    by_key,
    decoding_processes,
    read_rows,
    write_digits,
    write_parquet,
    write_tar,
)


@pytest.fixture
def folder(tmp_path):
    return write_digits(tmp_path / "images", 20)


@pytest.fixture
def paths(folder):
    return sorted(folder.rglob("*.png"))


@pytest.mark.parametrize("words", [(), ("--resume",), ("--overwrite",)])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_that_is_no_output_is_never_replaced(ending, words, folder, paths, batch, tmp_path):
    out = tmp_path / f"mine.{ending}"
    out.write_text("image\n" + "".join(f"{path}\n" for path in paths))
    before = out.read_bytes()
    source = out if ending == "csv" and not words else folder  # even where it is the source
    done = batch(source, *words, out=out)
    assert done.status == 1 and f"{out} " in done.err and "is no output of a batch job" in done.err
    assert out.read_bytes() == before and not (tmp_path / f"mine.{ending}.parts").exists()


def test_columns_whose_names_csv_or_we_have_keep_their_values(batch, paths, tmp_path):
    names = ("image", "label", "source_label", "label_2", "probability_3", "other")
    lines = [[str(path), "cat", "dog", f"second {n}", f"{n}", "x"] for n, path in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(map(",".join, [names, *lines])) + "\n")
    assert batch(tmp_path / "list.csv", "--top-k", 3, out=tmp_path / "rows.csv").status == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert len(rows) == len(paths)
    for number, row in enumerate(rows):
        assert row["source_source_label"] == "cat" and row["source_label"] == "dog" and row["other"] == "x"
        assert row["source_label_2"] == f"second {number}" and row["source_probability_3"] == f"{number}"
        assert {row["label"], row["label_2"], row["label_3"]} <= set("0123456789") and row["probability_3"] < "1"


@pytest.mark.parametrize("many", [3, 2000])
def test_csv_comes_from_standard_input(many, paths, lenet_artifact, tmp_path):
    lines = [f"{number},{paths[number % 20]}\n" for number in range(many)]
    words = [*BATCH, "-", "--column", "file", "--artifact", lenet_artifact, "--out", tmp_path / "rows.jsonl"]
    done = subprocess.run(words, input="n,file\n" + "".join(lines), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["n"], row["key"]) for row in rows] == [tuple(line.strip().split(",")) for line in lines]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "parquet"])
def test_a_shard_that_is_not_there_yet_stops_the_job_which_can_be_resumed(ending, folder, paths, batch, tmp_path):
    def write(path, some):
        if ending == "parquet":
            write_parquet(path, some, folder)
        else:
            write_tar(path, some, folder, "w:gz" if ending == "tar.gz" else "w")

    write(tmp_path / f"s-0.{ending}", paths[:12])
    source = f"{tmp_path}/s-{{0..1}}.{ending}"
    done = batch(source)
    assert done.status == 1 and f"s-1.{ending} cannot be opened: No such file or directory" in done.err
    write(tmp_path / f"s-1.{ending}", paths[12:])
    assert batch(source, "--resume").status == 0
    assert len(read_rows(tmp_path / "rows.parquet")) == 20
    assert batch(tmp_path / f"typo.{ending}", out=tmp_path / "typo.parquet").status == 1


def test_the_ending_of_a_tar_file_may_be_written_in_capitals(folder, paths, batch, tmp_path):
    write_tar(tmp_path / "DIGITS.TAR.GZ", paths, folder, "w:gz")
    assert batch(tmp_path / "DIGITS.TAR.GZ").status == 0
    assert len(read_rows(tmp_path / "rows.parquet")) == 20


@pytest.mark.parametrize("words", [("--resume",), ("--overwrite",)])
@pytest.mark.parametrize("name", ["aa-rows", "z-rows"])
def test_the_output_is_no_shard_of_a_pattern(name, words, folder, paths, batch, tmp_path):
    (tmp_path / "data").mkdir()
    for part, some in (("a", paths[:12]), ("b", paths[12:])):
        write_parquet(tmp_path / "data" / f"{part}.parquet", some, folder)
    out = tmp_path / "data" / f"{name}.parquet"
    for further in ((), words):
        done = batch(f"{tmp_path}/data/*.parquet", *further, out=out)
        assert done.status == 0, done.err
        assert len(read_rows(out)) == 20


def test_a_store_gets_no_file_that_was_not_written_to_its_end():
    folder = Folder("memory://interrupted")
    with pytest.raises(KeyboardInterrupt), folder.writing("rows.jsonl") as file:
        file.write(b"part")
        raise KeyboardInterrupt
    assert folder.names() == []
    folder.write("rows.jsonl", b"whole")
    assert folder.names() == ["rows.jsonl"] and folder.read("rows.jsonl") == b"whole"


@pytest.fixture
def web(folder):
    """Address of a web server of the folder that refuses some names, and how often each name was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            asked[name] += 1
            status = 410 if name.startswith("gone") else 403 if name.startswith("private") else 200
            content = (folder / name).read_bytes() if status == 200 else b"no"
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    asked = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_dead_links_at_the_end_of_a_list_get_rows(web, folder, paths, batch, tmp_path):
    names = [path.relative_to(folder).as_posix() for path in paths] + ["private.png", "gone-1.png", "gone-2.png"]
    address, asked = web
    (tmp_path / "list.txt").write_text("".join(f"{address}/{name}\n" for name in names))
    assert batch(tmp_path / "list.txt").status == 3
    assert asked == Counter(names)  # no refusal is asked for again
    rows = read_rows(tmp_path / "rows.parquet")
    assert [row["error_code"] for row in rows] == [None] * 20 + ["file_unreadable"] * 3


@pytest.mark.parametrize(("scheme", "stops"), [("https", False), ("s3", True)])
def test_only_files_of_one_store_stop_a_job_together(scheme, stops, monkeypatch):
    def away(url):
        raise ConnectionError("no route")

    monkeypatch.setattr(reading, "read_bytes", away)
    monkeypatch.setattr(reading.time, "sleep", lambda seconds: None)
    found = reading.read_ahead([(f"{scheme}://place/{name}",) for name in "ab"])
    if stops:
        with pytest.raises(reading.StorageFailed, match="s3://place/b cannot be read: no route"):
            list(found)
    else:
        assert [failure.code for failure in found] == ["file_unreadable"] * 2


def test_decoding_that_goes_on_ends_when_the_job_does():
    spec = make_spec()
    slots = Slots(2, (5, *spec.shape))
    decoders = Decoders(1, slots, spec, 10**6)
    decoders._pool.submit(time.sleep, 0).result()
    processes = decoding_processes(os.getpid())
    decoders._pool.submit(time.sleep, 60)
    time.sleep(0.5)  # so that it runs
    decoders.close()
    slots.close()
    assert processes and psutil.wait_procs(processes, timeout=10)[1] == []


def test_no_image_is_blamed_where_no_process_can_decode(paths):
    spec = make_spec()
    slots = SimpleNamespace(path="/nowhere", count=2, shape=(5, *spec.shape))  # so that each process fails
    decoders = Decoders(1, slots, spec, 10**6)
    with pytest.raises(ConvscopeError, match="processes that decode end at once"):
        decoders.result(decoders.submit(0, [str(path) for path in paths[:3]]))
    decoders.close()


def test_a_null_byte_in_a_path_is_an_error_of_its_row(paths, batch, tmp_path):
    (tmp_path / "list.txt").write_text(f"{paths[0]}\n{paths[1]}\0\n")
    assert batch(tmp_path / "list.txt").status == 3
    first, second = read_rows(tmp_path / "rows.parquet")
    assert first["error_code"] is None
    assert (second["error_code"], second["error_message"]) == ("file_unreadable", "embedded null byte")


def test_columns_of_tables_are_checked(folder, paths, batch, tmp_path):
    def write(name, columns):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")

    images = [path.read_bytes() for path in paths]
    write("1", {"image": images[:3], "id": [0, 1, 2]})
    write("2", {"picture": images[3:], "id": list(range(3, 20))})
    done = batch(tmp_path / "1.parquet", "--column", "id", out=tmp_path / "none.parquet")
    assert done.status == 1 and "has int64 in the column 'id'; wanted bytes, bytes and path" in done.err
    done = batch(f"{tmp_path}/[12].parquet")
    assert done.status == 3 and "2.parquet has no column image, unlike the first file" in done.out
    assert list(by_key(read_rows(tmp_path / "rows.parquet"))) == ["0", "1", "2"]


def test_long_cells_of_csv_are_read_again():
    text = io.StringIO(newline="")
    rows = [["key", "error_code", "error_message", "logits"], ["a", "", "", "1," * 100_000], ["b", "bad", "it is", ""]]
    csv.writer(text).writerows(rows)
    assert {place: one.code for place, one in read_failures(text.getvalue().encode(), "csv").items()} == {1: "bad"}


def test_an_error_page_with_an_images_name_gets_a_row_from_a_server(server, folder, run, tmp_path):
    shutil.rmtree(folder / "1")
    (folder / "1.png").write_text('{"error": "rate limit"}')
    (folder / "2.png").write_text("[1, 2]")
    words = ("--url", server.url, "--batch-size", 1, "--out", tmp_path / "rows.parquet")
    assert run("batch", folder, *words).status == 3
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    failed = {key: row["error_code"] for key, row in rows.items() if row["error_code"]}
    assert failed == {"1.png": "image_unsupported", "2.png": "image_unsupported"} and len(rows) > 10
