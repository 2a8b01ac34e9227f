"""Sources and outputs that are no local files: fsspec's memory, and a real S3 server."""

import fsspec
import pyarrow.dataset
import pytest

from models.errors import UserError
from service.batch.sources.folder import RemoteSource
from service.batch.storage import file_system, files_below
from tests.service.batch.conftest import by_key, read_rows, write_parquet, write_tar
from tests.service.batch.jobs import Interrupted, run_job, stop_after

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
pytest.importorskip("moto.server", reason="moto is not installed")

from tests.service.batch.s3_server import s3_server


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()


@pytest.fixture(scope="module")
def bucket():
    """A server with a bucket."""
    with s3_server() as (fs, _):
        fs.mkdir("bucket")
        yield fs


def labels_in(out, filesystem=None):
    rows = pyarrow.dataset.dataset(out, format="parquet", filesystem=filesystem).to_table().to_pylist()
    return {key: row["label"] for key, row in by_key(rows).items()}


def test_a_folder_in_memory_and_an_output_in_memory(memory, digits_folder, lenet_artifact, expected, tmp_path):
    memory.put(f"{digits_folder}/", "/images/", recursive=True)
    done = run_job("memory://images", "memory://rows.parquet", lenet_artifact)
    assert done.statistics.rows == 180 and not done.statistics.failed
    found = labels_in("/rows.parquet", memory)
    assert found == {key: labels[0][0] for key, labels in expected.items()}


@pytest.mark.parametrize("kind", ["folder", "pattern", "list", "tar", "parquet"])
def test_every_kind_of_source_in_s3(kind, bucket, digits_folder, files, lenet_artifact, expected, tmp_path):
    source = f"s3://bucket/{kind}"
    if kind in ("folder", "pattern"):
        bucket.put(f"{digits_folder}/", f"bucket/{kind}/", recursive=True)
        source += "/*/*.png" if kind == "pattern" else ""
    elif kind == "list":
        bucket.put(f"{digits_folder}/", "bucket/list/", recursive=True)
        source = "s3://bucket/list/all.txt"
        bucket.pipe(source, "".join(f"{path.relative_to(digits_folder)}\n" for path in files).encode())
    else:
        write = write_tar if kind == "tar" else write_parquet
        bucket.put(str(write(tmp_path / f"digits.{kind}", files, digits_folder)), f"bucket/digits.{kind}")
        source = f"s3://bucket/digits.{kind}"
    done = run_job(source, tmp_path / "rows.parquet", lenet_artifact)
    assert not done.statistics.failed
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    assert {key: row["label"] for key, row in rows.items()} == {key: one[0][0] for key, one in expected.items()}


def test_a_job_whose_output_is_in_s3_is_resumed(bucket, digits_folder, lenet_artifact, expected):
    out = "s3://bucket/out/rows.parquet"
    with pytest.raises(Interrupted):
        run_job(digits_folder, out, lenet_artifact, tell=stop_after(4))
    done = run_job(digits_folder, out, lenet_artifact, resume=True)
    assert 0 < done.rows_now < 180
    found = labels_in("bucket/out/rows.parquet", bucket)
    assert found == {key: labels[0][0] for key, labels in expected.items()}


def test_files_that_are_not_there_get_errors(bucket, lenet_artifact, tmp_path):
    (tmp_path / "list.txt").write_text("s3://bucket/none.png\n")
    done = run_job(tmp_path / "list.txt", tmp_path / "rows.parquet", lenet_artifact)
    assert done.statistics.errors == {"file_unreadable": 1}


@pytest.mark.parametrize("source", ["s3://nobucket/images", "s3://bucket/nothing", "nosuch://bucket/x"])
def test_a_url_that_leads_nowhere_is_refused(bucket, source, lenet_artifact, tmp_path):
    with pytest.raises(ValueError, match=source):
        run_job(source, tmp_path / "rows.parquet", lenet_artifact)


def test_s3_is_listed_by_pages_of_whole_keys(bucket):
    names = [f"{number:04}.png" for number in range(1010)]
    names += ["0500.png/in a folder.png", "a b/ü #1?.png", ".hidden/a.png", "x//y.png"]
    bucket.pipe({f"s3://bucket/many/{name}": b"x" for name in names})
    bucket.call_s3("put_object", Bucket="bucket", Key="many/empty/", Body=b"")
    bucket.pipe("s3://bucket/manyfold/other.png", b"x")
    assert list(files_below("s3://bucket/many")) == sorted(names)
    assert list(files_below("s3://bucket/many", "100")) == [f"{number:04}.png" for number in range(1000, 1010)]
    remarks = []
    (shard,) = RemoteSource("s3://bucket/many", "0*").shards(lambda *remark: remarks.append(remark), 5000)
    assert [entry.key for entry in shard.entries(lambda position: True)] == names[:1000]


def test_a_hidden_folder_in_s3_is_remarked_on_once(bucket):
    bucket.pipe(
        {f"s3://bucket/hidden/{name}": b"x" for name in (".git/a.png", ".git/b/c.png", "d/@eaDir/e.png", "f.png")}
    )
    remarks = []
    (shard,) = RemoteSource("s3://bucket/hidden").shards(lambda key, reason: remarks.append(key), 100)
    assert [entry.url for entry in shard.entries(lambda position: True)] == ["s3://bucket/hidden/f.png"]
    assert remarks == [".git", "d/@eaDir"]


@pytest.mark.parametrize("place", ["s3://bucket/denied", "memory://denied"])
def test_a_listing_that_fails_stops_the_job(place, bucket, memory, files, lenet_artifact, tmp_path, monkeypatch):
    fs = file_system(place)
    for number, path in enumerate(files[:3]):
        fs.pipe(f"{place}/{number}/image.png", path.read_bytes())
    method = "call_s3" if place.startswith("s3") else "ls"
    working = getattr(fs, method)

    def denied(name, *positions, **options):
        if name == "list_objects_v2" or str(name).endswith("/1"):
            raise PermissionError(13, "Access Denied")
        return working(name, *positions, **options)

    monkeypatch.setattr(fs, method, denied)
    with pytest.raises(UserError, match=f"{place} cannot be listed: Access Denied"):
        run_job(place, tmp_path / "rows.parquet", lenet_artifact)
    monkeypatch.undo()
    assert run_job(place, tmp_path / "rows.parquet", lenet_artifact, resume=True).statistics.rows == 3
