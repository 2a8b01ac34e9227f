"""A store that is throttled, fails, or no longer knows the credentials, in the middle of jobs."""

import pyarrow.dataset
import pytest

from models.errors import UserError
from models.files import UnwritableError
from tests.service.batch.conftest import by_key, read_rows, write_parquet, write_tar
from tests.service.batch.jobs import run_job

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
pytest.importorskip("moto.server", reason="moto is not installed")

from tests.service.batch.s3_server import s3_server


@pytest.fixture(scope="module")
def server(digits_folder, files, tmp_path_factory):
    with s3_server() as (fs, faults):
        fs.mkdir("faulty")
        fs.put(f"{digits_folder}/", "faulty/folder/", recursive=True)
        folder = tmp_path_factory.mktemp("shards")
        fs.put(str(write_tar(folder / "digits.tar", files, digits_folder)), "faulty/digits.tar")
        fs.put(str(write_parquet(folder / "digits.parquet", files, digits_folder)), "faulty/digits.parquet")
        yield fs, faults


@pytest.fixture
def faults(server):
    faults = server[1]
    faults.refused = []
    yield faults
    faults.code = lambda method, path: ""


def rows_in(out):
    return {key: row["label"] for key, row in by_key(read_rows(out)).items()}


def refusing(code, *, first=0, method="GET", part="faulty/", every=1):
    """Refuses a method from a request on."""
    seen = []

    def refused(verb, path):
        if verb != method or part not in path:
            return ""
        seen.append(path)
        return code if len(seen) > first and len(seen) % every == 0 else ""

    return refused


@pytest.mark.parametrize(
    ("source", "code"),
    [("folder", "ExpiredToken"), ("digits.tar", "InvalidAccessKeyId"), ("digits.parquet", "ExpiredToken")],
)
def test_credentials_that_expire_stop_a_job_that_can_be_resumed(
    code, source, faults, lenet_artifact, expected, tmp_path
):
    out = tmp_path / "rows.parquet"
    faults.code = refusing(code, first=60 if source == "folder" else 0, part=source)
    with pytest.raises(UserError, match=f"s3://faulty/{source}.* cannot be read: {code}, says the server"):
        run_job(f"s3://faulty/{source}", out, lenet_artifact)
    faults.code = refusing("")
    done = run_job(f"s3://faulty/{source}", out, lenet_artifact, resume=True)
    assert not done.statistics.failed and (source != "folder" or 0 < done.rows_now < 180)
    assert rows_in(out) == {key: labels[0][0] for key, labels in expected.items()}


@pytest.mark.parametrize("code", ["ExpiredToken", pytest.param("AccessDenied", marks=pytest.mark.acceptance)])
def test_an_output_that_may_no_longer_be_written_stops_a_job_that_can_be_resumed(
    code, server, faults, digits_folder, lenet_artifact, expected
):
    out = f"s3://faulty/{code}/rows.parquet"
    faults.code = refusing(code, first=6, method="PUT", part=f"{code}/")
    with pytest.raises(UnwritableError, match=f"s3://faulty/{code}/.* cannot be written: {code}, says the server"):
        run_job(digits_folder, out, lenet_artifact)
    faults.code = refusing("")
    assert 0 < run_job(digits_folder, out, lenet_artifact, resume=True).rows_now < 180
    rows = pyarrow.dataset.dataset(f"faulty/{code}/rows.parquet", format="parquet", filesystem=server[0]).to_table()
    assert {key: row["label"] for key, row in by_key(rows.to_pylist()).items()} == {
        key: labels[0][0] for key, labels in expected.items()
    }


@pytest.mark.acceptance
def test_a_throttled_store_is_tried_again(server, faults, lenet_artifact, expected):
    out = "s3://faulty/slow/rows.parquet"
    reads, writes = refusing("InternalError", every=9), refusing("SlowDown", every=4, method="PUT")
    faults.code = lambda *request: reads(*request) or writes(*request)
    done = run_job("s3://faulty/folder", out, lenet_artifact)
    assert done.statistics.rows == 180 and not done.statistics.failed
    assert {"GET", "PUT"} == {line.partition(" ")[0] for line in faults.refused}


@pytest.mark.acceptance
def test_what_may_not_be_read_gets_errors(faults, lenet_artifact, tmp_path):
    faults.code = refusing("AccessDenied", part="/folder/3/")
    done = run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact)
    assert done.statistics.rows == 180
    assert done.statistics.errors == {"file_unreadable": sum("/folder/3/" in line for line in faults.refused)}
    faults.code = refusing("")
    done = run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact, retry_failed=True)
    assert not done.statistics.failed


@pytest.mark.acceptance
def test_a_store_that_goes_away_stops_a_job_that_can_be_resumed(faults, lenet_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of botocore; ours are on top
    faults.code = refusing("InternalError", first=60, part="folder")
    with pytest.raises(UserError, match=r"s3://faulty/folder/.* cannot be read: .*InternalError, says the server"):
        run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact)
    faults.code = refusing("")
    done = run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact, resume=True)
    assert 0 < done.rows_now < 180 and done.statistics.failed < 8  # those that were being read with others that arrived
    done = run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact, retry_failed=True)
    assert done.statistics.rows == 180 and not done.statistics.failed


def test_each_image_in_s3_is_one_request(faults, lenet_artifact, tmp_path):
    requests = []
    faults.code = lambda method, path: requests.append((method, path)) or ""
    run_job("s3://faulty/folder", tmp_path / "rows.parquet", lenet_artifact)
    assert len([path for method, path in requests if path.endswith(".png")]) == 180
