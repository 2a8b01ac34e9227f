"""A job that is killed and resumed gives the rows of one that was not, and never fits two jobs together."""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from export.pipeline.export import export_checkpoint
from service.batch.decoding import SHARED_MEMORY
from service.batch.job import Job, MaxErrors, Request
from service.batch.network import Wanted
from tests.conftest import make_checkpoint
from tests.service.batch.conftest import BATCH, by_key, decoding_processes, read_rows, write_parquet, write_tar
from tests.service.batch.jobs import BLOCK, Interrupted, request, run_job, stop_after


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_folder, lenet_artifact):
    """The rows of a job that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "rows.parquet"
    run_job(digits_folder, out, lenet_artifact)
    return read_rows(out)


def read_text_rows(path):
    """Rows of JSON Lines or CSV, whose quotes may differ."""
    lines = io.StringIO(path.read_text(), newline="")
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else list(csv.reader(lines))


@pytest.mark.parametrize("kind", ["folder", pytest.param("tar", marks=pytest.mark.acceptance), "tar.gz", "parquet"])
def test_a_resumed_job_gives_the_same_rows_whatever_its_processes_and_batches(
    kind, tmp_path, digits_folder, files, lenet_artifact, whole
):
    out, source = tmp_path / "rows.parquet", digits_folder
    if kind.startswith("tar"):
        source = write_tar(tmp_path / f"digits.{kind}", files, digits_folder, "w:gz" if kind == "tar.gz" else "w")
    elif kind == "parquet":
        source = write_parquet(tmp_path / "digits.parquet", files, digits_folder)
    for processes, batch_size in ((1, 8), (2, 16), (3, 5)):
        with pytest.raises(Interrupted):
            run_job(
                *(source, out, lenet_artifact),
                **{"resume": True, "processes": processes, "batch_size": batch_size},
                tell=stop_after(3 + len(list(out.glob("_job/blocks/*.json")))),
            )
    done = run_job(source, out, lenet_artifact, resume=True)
    assert 0 < done.rows_now < len(whole) and done.statistics.rows == len(whole)
    columns = [name for name in whole[0] if name in read_rows(out)[0]]
    assert [[row[name] for name in columns] for row in read_rows(out)] == [
        [row[name] for name in columns] for row in whole
    ]


def test_an_empty_shard_is_done_once(tmp_path, files, digits_folder, lenet_artifact):
    out = tmp_path / "rows.parquet"
    for name, some in (("a", []), ("b", files[:20])):
        write_tar(tmp_path / f"{name}.tar", some, digits_folder)
    assert run_job(tmp_path / "*.tar", out, lenet_artifact).rows_now == 20
    again = run_job(tmp_path / "*.tar", out, lenet_artifact, resume=True)
    assert again.rows_now == 0 and again.statistics.rows == len(read_rows(out)) == 20


def test_a_part_without_a_record_is_written_again_once(tmp_path, digits_folder, lenet_artifact, whole):
    out = tmp_path / "rows.parquet"
    run_job(digits_folder, out, lenet_artifact)
    (out / "_job" / "blocks" / "000002-0000.json").unlink()
    (out / ".part-000002-0000.parquet.77.tmp").write_bytes(b"half")
    assert run_job(digits_folder, out, lenet_artifact, resume=True).rows_now == BLOCK
    assert read_rows(out) == whole


@pytest.mark.parametrize("victims", ["group", pytest.param("decoder", marks=pytest.mark.acceptance)])
def test_kills_at_random_moments_lose_nothing(victims, tmp_path, digits_folder, lenet_artifact, expected):
    out, choice = tmp_path / "rows.jsonl", random.Random(victims)
    source = tmp_path / "many"
    for copy in range(40):  # a job of some seconds
        shutil.copytree(digits_folder, source / f"{copy:02}", copy_function=os.link)
    words = [*BATCH, source, "--artifact", lenet_artifact, "--out", out, "--resume", "--processes", "1"]
    killed = 0
    for _ in range(3):
        process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and not (decoders := decoding_processes(process.pid)):
            time.sleep(0.02)  # it ends without any once all is done
        time.sleep(choice.uniform(0, 0.6))
        if process.poll() is None:
            if victims == "group":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                for one in decoders:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
            killed += 1
        errors = process.communicate()[1].decode()
        assert process.returncode in (0, -signal.SIGKILL), errors
    assert killed
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = by_key([json.loads(line) for line in out.read_text().splitlines()])
    wanted = {f"{copy:02}/{key}": labels for copy in range(40) for key, labels in expected.items()}
    assert {key: row["label"] for key, row in rows.items()} == {key: labels[0][0] for key, labels in wanted.items()}


def test_a_killed_job_leaves_no_processes_and_no_shared_memory(tmp_path, digits_folder, lenet_artifact):
    out, before = tmp_path / "rows.jsonl", set(SHARED_MEMORY.glob("convscope-batch-*"))
    code = f"from {__name__} import run_job; run_job(*{(str(digits_folder), str(out), lenet_artifact)!r}, block_rows=8)"
    code = f"from pathlib import PosixPath; {code}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    while not list(tmp_path.glob("rows.jsonl.parts/_job/blocks/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert set(SHARED_MEMORY.glob("convscope-batch-*")) <= before


@pytest.fixture
def finished(tmp_path, digits_folder, lenet_artifact):
    """A copy of the folder, and a job that went over it."""
    source, out = tmp_path / "images", tmp_path / "rows.parquet"
    shutil.copytree(digits_folder, source)
    run_job(source, out, lenet_artifact)
    return source, out


def test_a_changed_source_is_refused_with_what_changed(finished, lenet_artifact):
    source, out = finished
    first = min(source.rglob("*.png"))
    first.rename(first.with_name("0.png"))
    with pytest.raises(
        ValueError, match=r"source was changed: block 000000-0000 was '0/0000.png' to .* is '0/0.png' to"
    ):
        run_job(source, out, lenet_artifact, resume=True)


def test_a_source_that_grew_or_shrank_is_refused(finished, lenet_artifact):
    source, out = finished
    last = max(source.rglob("*.png"))
    shutil.copy(last, last.with_name("zz.png"))
    with pytest.raises(ValueError, match="the source was changed: block 000011-0000 was"):
        run_job(source, out, lenet_artifact, resume=True)
    for path in (last, last.with_name("zz.png")):
        path.unlink()
    with pytest.raises(ValueError, match="the source was changed: block 000011-0000 was"):
        run_job(source, out, lenet_artifact, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wanted": Wanted(top_k=2)}, "top_k was 3 and is 2"),
        ({"wanted": Wanted(top_k=3, logits=True)}, "logits was False and is True"),
        ({"limit_pixels": 99}, "limit_pixels was 50000000 and is 99"),
    ],
)
def test_options_that_change_rows_are_refused(change, message, finished, lenet_artifact):
    source, out = finished
    asked = request(source, out, lenet_artifact, resume=True)
    with pytest.raises(ValueError, match=message):
        Job(Request(**{**vars(asked), **change}))


def test_another_artifact_is_refused(finished, tmp_path):
    source, out = finished
    other = export_checkpoint(
        make_checkpoint(tmp_path / "mlp", model="mlp"), out=tmp_path / "artifacts", formats=["onnx"]
    )
    with pytest.raises(ValueError, match=r"its rows would not fit together: artifact was '.*' and is '.*'"):
        run_job(source, out, other, resume=True)


def test_an_output_is_never_overwritten_by_chance(finished, lenet_artifact, tmp_path):
    source, out = finished
    with pytest.raises(ValueError, match="exists; --resume goes on with it, --overwrite replaces it"):
        run_job(source, out, lenet_artifact)
    other = tmp_path / "other.parquet"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no output of a batch job"):
        run_job(source, other, lenet_artifact, overwrite=True)
    assert (other / "precious.txt").read_text() == "mine"
    assert run_job(source, out, lenet_artifact, overwrite=True).rows_now == 180


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_only_rows_with_errors_are_tried_again(form, tmp_path, digits_folder, lenet_artifact, whole):
    source, out = tmp_path / "images", tmp_path / f"rows.{form}"
    shutil.copytree(digits_folder, source)
    broken = sorted(source.rglob("*.png"))[5:40:7]
    good = {path: path.read_bytes() for path in broken}
    for path in broken:
        path.write_bytes(good[path][:60])
    first = run_job(source, out, lenet_artifact)
    assert first.statistics.errors == {"image_undecodable": 5} and first.statistics.rows == len(whole)
    for path in broken[1:]:
        path.write_bytes(good[path])
    again = run_job(source, out, lenet_artifact, retry_failed=True)
    assert again.rows_now == 5 and again.statistics.failed == 1 and again.statistics.rows == len(whole)
    broken[0].write_bytes(good[broken[0]])
    assert run_job(source, out, lenet_artifact, retry_failed=True).statistics.failed == 0
    if form == "parquet":
        assert read_rows(out) == whole
    else:
        undisturbed = tmp_path / f"undisturbed.{form}"
        run_job(source, undisturbed, lenet_artifact)
        assert read_text_rows(out) == read_text_rows(undisturbed)


def test_too_many_errors_stop_a_job_that_can_go_on(tmp_path, digits_folder, lenet_artifact):
    source, out = tmp_path / "images", tmp_path / "rows.parquet"
    shutil.copytree(digits_folder, source)
    for path in sorted(source.rglob("*.png"))[:20]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"of .* rows have errors, more than --max-errors; stopped, --resume goes on"):
        run_job(source, out, lenet_artifact, max_errors=MaxErrors(count=10))
    done = run_job(source, out, lenet_artifact, resume=True)
    assert done.statistics.errors == {"image_empty": 20} and done.statistics.rows == 180


def test_a_full_disk_stops_the_job_and_loses_nothing(tmp_path, digits_folder, lenet_artifact, whole, monkeypatch):
    out = tmp_path / "rows.parquet"
    written = []

    def fsync(handle, real=os.fsync):
        written.append(handle)
        if len(written) == 9:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as disk:
        disk.setattr("service.batch.storage.os.fsync", fsync)
        with pytest.raises(OSError, match="cannot be written: No space left on device"):
            run_job(digits_folder, out, lenet_artifact)
    assert not list(out.rglob("*.tmp"))
    assert run_job(digits_folder, out, lenet_artifact, resume=True).rows_now > 0
    assert read_rows(out) == whole


def test_part_files_in_the_source_are_not_read_when_a_job_is_resumed(tmp_path, digits_folder, lenet_artifact):
    source = tmp_path / "images"
    shutil.copytree(digits_folder, source)
    out = source / "rows.jsonl"
    with pytest.raises(Interrupted):
        run_job(f"{source}/**", out, lenet_artifact, tell=stop_after(3))
    done = run_job(f"{source}/**", out, lenet_artifact, resume=True)
    assert done.statistics.rows == 180 and not done.statistics.failed


def test_the_output_in_the_source_is_not_read(tmp_path, digits_folder, lenet_artifact):
    source = tmp_path / "images"
    shutil.copytree(digits_folder, source)
    for _ in range(2):
        done = run_job(source, source / "rows.jsonl", lenet_artifact, overwrite=_ > 0)
        assert done.statistics.rows == 180
    assert Path(source / "rows.jsonl").is_file()
