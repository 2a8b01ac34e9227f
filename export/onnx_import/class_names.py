"""Class names from a text, in the forms in which they are published, and from an ONNX file's metadata."""

import ast
import csv
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from models.errors import UserError

METADATA_KEYS = ("names", "id2label", "labels", "class_names", "classes")
_KEYS_OF_OBJECT = ("id2label", "names", "labels", "class_names", "classes", "label2id", "class_to_idx")
_LIMIT_CHARACTERS = 10_000_000
_INDEXED = re.compile(r"\s*(\d+)\s*[,;:\t ]\s*(\S.*)")
_INDEX_LAST = re.compile(r"(.*\S)\s*[,;\t]\s*(\d+)\s*")


def names_in_text(text: str) -> list[str]:
    """Class names by index.

    Known forms are a name per line; lines `0,tench`, with commas, semicolons, colons, tabs or spaces, in any order of
    the indices; a list or a dictionary by index, as JSON or in Python's notation; and JSON with such a one under
    `id2label`, `names` or `labels`, as Hugging Face's config.json.

    Raises:
        ValueError: a list or dictionary that cannot be read.
    """
    text = text.strip("\ufeff \t\r\n")
    if text[:1] in ("{", "["):
        found = _names(_parsed(text))
        if found is None:
            raise UserError("it is a list or dictionary, but not of class names by index from 0")
        return found
    lines = [line.strip() for line in text.splitlines()]
    return _indexed(lines) or lines


def names_in_yaml(text: str) -> list[str]:
    """Class names by index in YAML: a list or dictionary, or such a one under `names`, as in Ultralytics' data.yaml.

    Raises:
        ValueError: there are none, or it is not YAML.
    """
    try:
        found = _names(yaml.load(text, yaml.BaseLoader))  # which keeps all as text; else `no` would be False
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"it is not YAML: {str(error).splitlines()[0]}") from None
    if found is None:
        raise UserError("it has no list or dictionary of class names by index from 0")
    return found


def names_in_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Class names by index in an ONNX file's metadata; None if there are none."""
    for key in METADATA_KEYS:
        text = metadata.get(key, "").strip()
        if text[:1] in ("{", "["):
            try:
                found = _names(_parsed(text))
            except UserError:
                found = None
            if found:
                return found
        elif "," in text or "\n" in text:
            return [word.strip() for word in text.split("\n" if "\n" in text else ",")]
    return None


def _parsed(text: str) -> Any:
    """JSON, or a literal in Python's notation."""
    if len(text) > _LIMIT_CHARACTERS:
        raise UserError(f"it has {len(text):,} characters, too many for class names")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UserError("it begins like a list or dictionary, but is neither JSON nor Python's notation") from None


def _names(value: Any) -> list[str] | None:
    if isinstance(value, dict):
        by_index = _by_index(value)
        if by_index is not None:
            return by_index
        return next((found for key in _KEYS_OF_OBJECT if key in value and (found := _names(value[key]))), None)
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, dict) for one in value):
            return _by_index({one.get("id", one.get("index", i)): one for i, one in enumerate(value)})
        names = [_name(one) for one in value]
        return None if None in names else [str(name) for name in names]
    return None


def _by_index(table: Mapping[Any, Any]) -> list[str] | None:
    """The names of a table index -> name or name -> index, whose indices are 0 to K - 1."""
    for pairs in (table.items(), [(value, key) for key, value in table.items()]):
        found = {index: _name(value) for key, value in pairs if (index := _index(key)) is not None}
        if len(found) == len(table) > 0 and None not in found.values() and sorted(found) == list(range(len(found))):
            return [str(found[i]) for i in range(len(found))]
    return None


def _index(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()) else None


def _name(value: Any) -> str | None:
    """A name itself, the last of several (`["n01440764", "tench"]`), or what an object calls its name."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and value:
        return _name(value[-1])
    if isinstance(value, dict):
        return next((_name(value[key]) for key in ("name", "label", "class") if key in value), None)
    return None


def _indexed(lines: list[str]) -> list[str] | None:
    """The names in lines that all have an index, from 0 or 1 on, apart from a heading; None for other lines."""
    rows = [line for line in lines if line]
    for some in (rows, rows[1:]):
        for pattern, index, name in ((_INDEXED, 1, 2), (_INDEX_LAST, 2, 1)):
            found = [match for line in some if (match := pattern.fullmatch(line))]
            if len(found) != len(some) or len(found) < 2:
                continue
            table = {int(match[index]): _unquoted(match[name]) for match in found}
            first = min(table)
            if first in (0, 1) and sorted(table) == list(range(first, first + len(found))):
                return [table[i] for i in sorted(table)]
    return None


def _unquoted(text: str) -> str:
    """A name without the quotes of CSV, or of a dictionary's notation."""
    text = text.strip().removesuffix(",") if text.startswith(("'", '"')) else text.strip()
    if text.startswith('"'):
        row = next(csv.reader([text]), [text])
        return row[0].strip() if len(row) == 1 else text
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
