import json
import os

import pytest

from tests.service.batch.conftest import write_digits


def answers(done):
    rows = [json.loads(line) for line in done.out.splitlines()]
    return {row["image"]: [one["label"] for one in row["predictions"]] for row in rows if "predictions" in row}


@pytest.mark.parametrize("count", [8, 180])
def test_a_folder_and_a_pattern_are_classified_under_the_keys_of_a_batch_job(
    count, run, tmp_path, lenet_artifact, expected
):
    folder = write_digits(tmp_path / "images", count)
    for words in ([folder], [f"{folder}/**/*.png"]):
        done = run("classify", *words, "--artifact", lenet_artifact, "--top-k", 3, "--json")
        assert done.status == 0, done.err
        found = answers(done)
        assert len(found) == count
        assert found == {key: [label for label, _ in expected[key]] for key in found}


def test_many_files_keep_their_names_and_order_and_a_bad_one_loses_no_other(
    run, tmp_path, digits_folder, files, lenet_artifact, expected
):
    bad, odd = tmp_path / "bad.png", tmp_path / os.fsdecode(b"caf\xe9.png")
    bad.write_bytes(b"nothing")
    odd.write_bytes(files[0].read_bytes())
    given = [*files[:50], bad, odd, tmp_path / "missing.png", *files[50:]]
    done = run("classify", *given, "--artifact", lenet_artifact, "--json", "--top-k", 1)
    assert done.status == 3
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["image"] for row in rows] == [os.fsencode(path).decode("utf-8", "backslashreplace") for path in given]
    assert [row["error"]["code"] for row in rows if "error" in row] == ["image_unsupported", "file_unreadable"]
    labels = {row["image"]: row["predictions"][0]["label"] for row in rows if "predictions" in row}
    for path in files:
        assert labels[str(path)] == expected[path.relative_to(digits_folder).as_posix()][0][0]
