"""Every entry of a source has exactly one row, or a line about what was passed over."""

import errno
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.batch.decoding import Decoders, Slots, decode_into
from service.batch.entries import key_of, path_of
from service.batch.sources.folder import FolderSource, sorted_names
from service.batch.sources.tar import TarSource
from service.batch.storage import StorageFailed, read_bytes
from tests.conftest import make_spec
from tests.service.batch.conftest import add_bytes, by_key, read_rows, write_digits, write_tar

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path):
    return write_digits(tmp_path / "images", 20)


def passed_over(out: Path) -> dict[str, str]:
    lines = (out / "_job" / "passed-over.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


def test_a_folder_of_everything_that_goes_wrong(folder, batch, tmp_path):
    good = sorted(folder.rglob("*.png"))
    whole = good[0].read_bytes()
    made = {
        "empty.png": (b"", "image_empty"),
        "text.jpg": (b"hello", "image_unsupported"),
        "cut.png": (whole[: len(whole) // 2], "image_undecodable"),
        "two\nlines.png": (whole, None),
        'quote".png': (whole, None),
        "back\\slash.png": (whole, None),
        os.fsdecode(b"caf\xe9.png"): (whole, None),
    }
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "to-a-file.png").symlink_to(good[0])
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "thumb.png").write_bytes(whole)
    done = batch(folder)
    assert done.status == 3, done.err
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    for name, (_, code) in made.items():
        assert rows[key_of(name)]["error_code"] == code
    for name in ("pipe.png", "dangling.png", "circle.png"):
        assert rows[name]["error_code"] == "file_unreadable", name
    assert rows["pipe.png"]["error_message"] == "not a file but a named pipe"
    assert rows["to-a-file.png"]["error_code"] is None
    assert len(rows) == len(good) + len(made) + 4
    assert passed_over(tmp_path / "rows.parquet") == {
        "loop": "a link to a folder above it",
        "notes.txt": "no image by its name",
        ".hidden.png": "a hidden file",
        "@eaDir": "a hidden folder, or one that a system made",
    }
    assert all((folder / path_of(key)).name for key in rows)


@pytest.mark.parametrize("name", ["plain.png", "back\\slash", "\\xe9", "two\\\\", "caf\u00e9", "a\nb"])
def test_keys_can_be_turned_back(name):
    for path in (name, os.fsdecode(name.encode() + b"\xff\xe9")):
        assert path_of(key_of(path)) == path
        key_of(path).encode()


def test_a_folder_that_cannot_be_read_is_reported(folder, batch, tmp_path, monkeypatch):
    locked = folder / "locked"
    locked.mkdir()
    real = os.scandir

    def scandir(place):  # the tests may run as root, who may read everything
        if os.fspath(place) == str(locked):
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr("service.batch.sources.folder.os.scandir", scandir)
    assert batch(folder).status == 0
    assert passed_over(tmp_path / "rows.parquet") == {"locked": "the folder cannot be read: Permission denied"}


@pytest.mark.parametrize(("place", "error"), [("0", errno.EIO), ("0", errno.EMFILE), ("", errno.EACCES)])
def test_a_failing_disk_stops_the_listing_and_the_job_can_be_resumed(place, error, folder, batch, tmp_path):
    real, failing = os.scandir, folder / place

    def scandir(path):
        if os.fspath(path) == str(failing):
            raise OSError(error, os.strerror(error))
        return real(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("service.batch.sources.folder.os.scandir", scandir)
        done = batch(folder)
    assert done.status == 1 and f"the folder {failing} cannot be read: {os.strerror(error)}" in done.err
    assert batch(folder, "--resume").status == 0
    assert len(read_rows(tmp_path / "rows.parquet")) == 20


def decode_file(path):
    decode_into(np.zeros((8, 8, 1), np.uint8), str(path), [], lambda source, _: read_bytes(source))


def list_folder(path):
    list(FolderSource(str(path.parent)).shards(lambda *_: None, 8))


def read_tar(path):
    for shard in TarSource((str(path),), ()).shards(lambda *_: None, 1):
        list(shard.entries(lambda _: True))


@pytest.mark.parametrize(
    ("call", "read"), [("os.open", decode_file), ("os.stat", list_folder), ("builtins.open", read_tar)]
)
def test_a_mount_that_is_away_is_no_matter_of_one_file(call, read, folder, monkeypatch):
    def away(name, *_, **options):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", name)

    path = min(folder.rglob("*.png"))
    with monkeypatch.context() as patched:
        patched.setattr(call, away)
        with pytest.raises(StorageFailed, match=f"{path} cannot be read: Transport endpoint is not connected"):
            read(path)


def test_files_of_a_list_that_vanished_or_are_none_get_errors(folder, batch, tmp_path, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    paths[3].unlink()
    paths[4].unlink()
    os.mkfifo(paths[4])
    paths[5].unlink()
    paths[5].mkdir()
    assert batch(folder / "list.txt").status == 3
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    assert {key: row["error_message"] for key, row in rows.items() if row["error_code"]} == {
        str(paths[3]): "No such file or directory",
        str(paths[4]): "not a file but a named pipe",
        str(paths[5]): "Is a directory",
    }


def test_a_huge_image_is_refused_by_its_header(folder, batch, tmp_path):
    width = (40_000).to_bytes(4, "big")
    header = PNG + b"\0\0\0\rIHDR" + width + width + b"\x08\0\0\0\0" + b"\0\0\0\0"
    (folder / "huge.png").write_bytes(header + b"\0" * 100)
    assert batch(folder).status == 3
    assert by_key(read_rows(tmp_path / "rows.parquet"))["huge.png"]["error_code"] in (
        "image_too_large",
        "image_undecodable",
    )


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_file_that_is_cut_keeps_its_sound_rows_and_is_named(ending, folder, batch, tmp_path):
    files = sorted(folder.rglob("*.png"))
    path = write_tar(tmp_path / f"cut.{ending}", files, folder, "w:gz" if ending == "tar.gz" else "w")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    done = batch(path)
    assert done.status == 3 and f"cut.{ending}" in done.out
    rows = read_rows(tmp_path / "rows.parquet")
    assert 0 < len(rows) < len(files) and all(row["error_code"] is None for row in rows)


def test_a_damaged_shard_among_sound_ones(folder, batch, tmp_path):
    files = sorted(folder.rglob("*.png"))
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", files, folder)
    (tmp_path / "1.tar").write_bytes(b"no tar at all" * 100)
    done = batch(f"{tmp_path}/*.tar")
    assert done.status == 3 and "1.tar cannot be read beyond its file 0" in done.out
    assert len(by_key(read_rows(tmp_path / "rows.parquet"))) == 2 * len(files)


def test_a_name_twice_in_a_tar_file_gives_two_rows(folder, batch, tmp_path):
    first, second = sorted(folder.rglob("*.png"))[:2]
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for path in (first, second, first):
            add_bytes(archive, "same.png", path.read_bytes())
        add_bytes(archive, "empty.png", b"")
    assert batch(tmp_path / "twice.tar").status == 3
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    assert rows.keys() == {"same.png", "same.png#2", "same.png#3", "empty.png"}
    assert rows["same.png"]["probabilities"] == rows["same.png#3"]["probabilities"]


def test_a_tar_file_of_names_with_one_beginning_is_no_single_sample(folder, batch, tmp_path):
    content = min(folder.rglob("*.png")).read_bytes()
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        for number in range(50):
            add_bytes(archive, f"frame.{number:03}.png", content)
    assert batch(tmp_path / "frames.tar").status == 0
    assert len(by_key(read_rows(tmp_path / "rows.parquet"))) == 50


def test_rows_of_a_table_without_images(batch, tmp_path, folder):
    content = min(folder.rglob("*.png")).read_bytes()
    pq.write_table(pa.table({"image": [content, None, b"", b"junk"]}), tmp_path / "some.parquet")
    assert batch(tmp_path / "some.parquet").status == 3
    codes = [row["error_code"] for row in read_rows(tmp_path / "rows.parquet")]
    assert codes == [None, "image_empty", "image_empty", "image_unsupported"]


def test_lines_that_name_no_image(batch, tmp_path, folder):
    good = min(folder.rglob("*.png"))
    lines = [{"image": str(good)}, {"image": None}, {}, {"image": 7}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert batch(tmp_path / "list.jsonl").status == 3
    codes = [row["error_code"] for row in read_rows(tmp_path / "rows.parquet")]
    assert codes == [None, "file_unreadable", "file_unreadable", "file_unreadable"]
    (tmp_path / "list.jsonl").write_text(json.dumps(lines[0]) + "\nno JSON\n")
    done = batch(tmp_path / "list.jsonl", out=tmp_path / "other.parquet")
    assert done.status == 1 and "list.jsonl, line 2: no JSON" in done.err


def test_names_in_large_folders_are_merged_in_their_order(tmp_path):
    names = [f"{number:03}" for number in range(25)]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [name for name, _ in sorted_names(str(tmp_path), run=4)] == names


def test_an_image_that_ends_the_process_gets_an_error_and_no_other_does(tmp_path, folder, monkeypatch):
    paths = [str(path) for path in sorted(folder.rglob("*.png"))[:5]]
    killer = tmp_path / "sitecustomize.py"
    killer.write_text(
        "import models.images.decode as decode, os\n"
        "real = decode.decode_image\n"
        "def decode_image(data, *rest, **named):\n"
        f"    if data == open({paths[2]!r}, 'rb').read(): os._exit(11)\n"
        "    return real(data, *rest, **named)\n"
        "decode.decode_image = decode_image\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")
    spec = make_spec()
    slots = Slots(2, (5, *spec.shape))
    decoders = Decoders(2, slots, spec, 10**6)
    try:
        found = decoders.result(decoders.submit(0, paths))
        assert {place: failure.code for place, failure in found.failures.items()} == {2: "decoder_crashed"}
        assert slots[0].reshape(5, -1).any(1).tolist() == [True, True, False, True, True]
    finally:
        decoders.close()
        slots.close()
