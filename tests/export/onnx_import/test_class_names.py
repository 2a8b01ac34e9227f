"""Class names in the forms in which they are published."""

import json

import pytest

from export.onnx_import.class_names import names_in_metadata, names_in_text, names_in_yaml
from models.errors import UserError

NAMES = ["tench, Tinca tinca", "café", "chat's"]
BY_INDEX = dict(enumerate(NAMES))
FORMS = {
    "lines": "\n".join(NAMES),
    "lines and blank ends": "\ufeff" + "\r\n".join(NAMES) + "\r\n\n",
    "Python's dictionary": str(BY_INDEX),
    "one entry a line": "{" + ",\n ".join(f"{i}: {name!r}" for i, name in BY_INDEX.items()) + "}\n",
    "Python's list": str(NAMES),
    "JSON list": json.dumps(NAMES),
    "JSON by index": json.dumps(BY_INDEX),
    "JSON by index, shuffled": json.dumps({i: NAMES[i] for i in (2, 0, 1)}),
    "JSON by name": json.dumps({name: i for i, name in BY_INDEX.items()}),
    "config.json": json.dumps({"architectures": ["X"], "id2label": BY_INDEX, "label2id": {}, "num_labels": 3}),
    "label2id alone": json.dumps({"label2id": {name: i for i, name in BY_INDEX.items()}}),
    "identifiers and names": json.dumps({i: [f"n0144{i}", name] for i, name in BY_INDEX.items()}),
    "objects": json.dumps([{"id": i, "name": name} for i, name in reversed(BY_INDEX.items())]),
    "TSV": "\n".join(f"{i}\t{name}" for i, name in BY_INDEX.items()),
    "TSV with a heading": "index\tlabel\n" + "\n".join(f"{i}\t{name}" for i, name in BY_INDEX.items()),
    "CSV": "\n".join(f'{i},"{name}"' for i, name in BY_INDEX.items()),
    "CSV, shuffled": "\n".join(f'{i},"{NAMES[i]}"' for i in (1, 2, 0)),
    "CSV from 1": "\n".join(f'{i + 1},"{name}"' for i, name in BY_INDEX.items()),
    "colons": "\n".join(f"{i}: {name}" for i, name in BY_INDEX.items()),
    "spaces": "\n".join(f"{i} {name}" for i, name in BY_INDEX.items()),
    "index last": "\n".join(f"{name};{i}" for i, name in BY_INDEX.items()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_names_by_index(form: str) -> None:
    assert names_in_text(FORMS[form]) == NAMES


@pytest.mark.parametrize("names", [["0", "1", "2"], ["2 cats", "3 cats"], ["1, one", "3, three"], ["n01 a", "n02 b"]])
def test_lines_that_are_no_table_are_names(names: list[str]) -> None:
    assert names_in_text("\n".join(names)) == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{0: 'a', 2: 'b'}", "not of class names by index from 0"),
        ('{"version": 1}', "not of class names"),
        ("[[1], {}]", "not of class names"),
        ("{0: open('x')}", "neither JSON nor Python's notation"),
        ("[" * 100_000, "neither JSON nor Python's notation"),
    ],
)
def test_other_lists_and_dictionaries_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        names_in_text(text)


@pytest.mark.parametrize(
    "metadata",
    [
        {"task": "classify", "names": str(BY_INDEX), "imgsz": "[224, 224]"},
        {"id2label": json.dumps(BY_INDEX)},
        {"labels": json.dumps(NAMES)},
        {"names": "{0: ", "labels": str(NAMES)},
        {"class_names": "\n".join(NAMES)},
    ],
)
def test_names_in_metadata(metadata: dict[str, str]) -> None:
    assert names_in_metadata(metadata) == NAMES


def test_metadata_without_names() -> None:
    assert names_in_metadata({"classes": "10", "names": "", "labels": "labels.txt", "task": "classify"}) is None


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: tench, 1: 'no', 2: 'on: off'}",
        "path: ../data\nnc: 3\nnames:\n  0: tench\n  1: no\n  2: 'on: off'\n",
        "names: [tench, no, 'on: off']",
        "- tench\n- no\n- 'on: off'\n",
        "# by hand\ntench: 0\nno: 1\n'on: off': 2\n",
    ],
)
def test_names_in_yaml(text: str) -> None:
    assert names_in_yaml(text) == ["tench", "no", "on: off"]


@pytest.mark.parametrize(
    "text, reason", [("names: [", "it is not YAML"), ("train: a\nval: b\n", "no list or dictionary"), ("", "no list")]
)
def test_other_yaml_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        names_in_yaml(text)
