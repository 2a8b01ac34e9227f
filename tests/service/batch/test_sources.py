import csv
import io
import json
import os
import subprocess
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.service.batch.conftest import BATCH, COUNT, add_bytes, by_key, read_rows, write_parquet, write_tar


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def made_source(kind, tmp_path, digits_folder, files):
    if kind == "folder":
        return digits_folder
    if kind == "pattern":
        return f"{digits_folder}/**/*.png"
    names = [os.path.relpath(path, tmp_path) for path in files]
    if kind == "text":
        (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
        return tmp_path / "list.txt"
    if kind == "csv":
        lines = "".join(f"{name},{number}\n" for number, name in enumerate(names))
        (tmp_path / "list.csv").write_text("file,number\n" + lines)
        return tmp_path / "list.csv"
    if kind == "jsonl":
        lines = [json.dumps({"image": name, "more": {"number": number}}) for number, name in enumerate(names)]
        (tmp_path / "list.jsonl").write_text("\n".join(lines))
        return tmp_path / "list.jsonl"
    if kind == "tar":
        return write_tar(tmp_path / "digits.tar", files, digits_folder)
    if kind == "tar.gz":
        return write_tar(tmp_path / "digits.tar.gz", files, digits_folder, "w:gz")
    return write_parquet(tmp_path / "digits.parquet", files, digits_folder, row_group_size=50)


KINDS = ["folder", "pattern", "text", "csv", "jsonl", "tar", "tar.gz", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_artifacts_answers(kind, batch, tmp_path, digits_folder, files, expected):
    done = batch(made_source(kind, tmp_path, digits_folder, files), "--top-k", 3)
    assert done.status == 0, done.err
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    if kind in ("text", "csv", "jsonl"):  # keys are the names in the list
        rows = {key.removeprefix(os.path.relpath(digits_folder, tmp_path) + "/"): row for key, row in rows.items()}
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert row["error_code"] is None and row["truth"] == key.split("/")[0]
        assert row["labels"] == [label for label, _ in expected[key]] and row["label"] == row["labels"][0]
        np.testing.assert_allclose(row["probabilities"], [p for _, p in expected[key]], atol=1e-5)
        assert row["probability"] == row["probabilities"][0]
    if kind == "csv":
        assert {rows[f"{p.parent.name}/{p.name}"]["number"] for p in files} == {str(n) for n in range(COUNT)}
    if kind == "jsonl":
        assert json.loads(rows[f"{files[7].parent.name}/{files[7].name}"]["more"]) == {"number": 7}


def test_a_list_may_come_from_standard_input(tmp_path, lenet_artifact, digits_folder, files, expected):
    words = [*BATCH, "-", "--artifact", lenet_artifact, "--out", "rows.jsonl", "--top-k", "3"]
    done = subprocess.run(words, input="\n".join(map(str, files)), text=True, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [str(path) for path in files]
    wanted = [expected[path.relative_to(digits_folder).as_posix()][0][0] for path in files]
    assert [row["label"] for row in rows] == wanted


def test_a_data_set_by_name_gives_the_accuracy_of_evaluate(run, tmp_path, lenet_artifact):
    done = run("batch", "digits", "--artifact", lenet_artifact, "--out", tmp_path / "rows.csv")
    measured = run("evaluate", lenet_artifact, "--data", "digits")
    assert (done.status, measured.status) == (0, 0), done.err + measured.err
    rows = read_csv(tmp_path / "rows.csv")
    right = sum(row["label"] == row["truth"] for row in rows)
    assert f"{right / len(rows):.2%} correct of {len(rows)} test images" in measured.out
    assert f"accuracy {right / len(rows):.2%} on {len(rows)} images" in done.out
    assert list(rows[0])[:11] == [
        *("key", "label", "probability", "label_2", "label_3", "label_4", "label_5"),
        *("probability_2", "probability_3", "probability_4", "probability_5"),
    ]


def test_logits_and_a_layer_are_those_of_the_network(batch, tmp_path, digits_folder, lenet_artifact, run):
    done = batch(digits_folder, "--logits", "--layer", "fc.1")
    assert done.status == 0, done.err
    row = read_rows(tmp_path / "rows.parquet")[0]
    path = digits_folder / row["key"]
    assert run("inspect", lenet_artifact, path, "--layers", "fc.1,fc.2", "--out", tmp_path / "maps.npz").status == 0
    with np.load(tmp_path / "maps.npz") as maps:
        np.testing.assert_allclose(row["embedding"], maps["fc.1"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row["logits"], maps["fc.2"], rtol=1e-4, atol=1e-5)


def test_webdataset_labels_and_numbered_shards(batch, tmp_path, files):
    for number in range(3):
        with tarfile.open(tmp_path / f"shard-{number:03}.tar", "w") as archive:
            for path in files[number::3]:
                add_bytes(archive, f"{path.stem}.cls", path.parent.name.encode())
                add_bytes(archive, f"{path.stem}.json", b"{}")
                add_bytes(archive, f"{path.stem}.png", path.read_bytes())
    done = batch(f"{tmp_path}/shard-{{000..002}}.tar")
    assert done.status == 0, done.err
    rows = by_key(read_rows(tmp_path / "rows.parquet"))
    assert {key: row["truth"] for key, row in rows.items()} == {
        f"shard-{number:03}.tar/{path.name}": path.parent.name for number in range(3) for path in files[number::3]
    }


def test_columns_of_a_table_keep_their_types_and_get_a_prefix_where_we_have_one(batch, tmp_path, files):
    table = {"picture": [path.read_bytes() for path in files], "label": ["a"] * COUNT, "place": [[1.5, 2]] * COUNT}
    pq.write_table(pa.table(table), tmp_path / "many.parquet")
    assert batch(tmp_path / "many.parquet", "--column", "picture").status == 0
    row = read_rows(tmp_path / "rows.parquet")[3]
    assert row["key"] == "many.parquet#3" and row["source_label"] == "a" and row["place"] == [1.5, 2.0]


def test_transparent_16_bit_and_turned_images_are_decoded_as_by_classify(batch, run, tmp_path, lenet_artifact):
    folder = tmp_path / "odd"
    folder.mkdir()
    grey = np.arange(28 * 20, dtype=np.uint16).reshape(28, 20) * 100
    Image.fromarray(grey).save(folder / "deep.png")
    Image.fromarray((grey / 256).astype(np.uint8)).save(folder / "grey.webp")
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray((grey / 256).astype(np.uint8)).save(folder / "turned.jpg", exif=turned)
    assert batch(folder).status == 0
    for row in read_rows(tmp_path / "rows.parquet"):
        done = run("classify", folder / row["key"], "--artifact", lenet_artifact, "--json")
        first = json.loads(done.out)["predictions"][0]
        assert (row["label"], round(row["probability"], 4)) == (first["label"], round(first["probability"], 4))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist; wanted a folder"),
        ("list.csv", "list.csv has none of the columns image, path"),
        ("words.parquet", "words.parquet has no column of bytes or of bytes and path; it has word"),
        ("broken.parquet", "broken.parquet cannot be read as Parquet"),
        ("nothing-*.tar", "no file matches nothing-*.tar"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_at_once(source, message, batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"word": ["x"]}), tmp_path / "words.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    done = batch(source)
    assert done.status == 1 and message in done.err
    assert not (tmp_path / "rows.parquet").exists()


def test_csv_values_may_have_newlines_and_quotes(batch, tmp_path, files):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["image", "note"], [files[0], 'two\nlines, "quoted"'], [files[1], "="]])
    (tmp_path / "list.csv").write_text(text.getvalue())
    assert batch(tmp_path / "list.csv", out=tmp_path / "rows.csv").status == 0
    rows = read_csv(tmp_path / "rows.csv")
    assert [row["note"] for row in rows] == ['two\nlines, "quoted"', "="]
