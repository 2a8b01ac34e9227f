"""The tables of every command: in a pipe and in a narrow terminal each number is whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import training
from training.cli.console import make_console, make_table, print_table

MEASURED = ("verify", "bench", "export")  # their rates differ from run to run


def words_of(text: str) -> set[str]:
    return set(re.sub("[│┃]", " ", text).split())


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_summary_in_a_pipe_has_every_number_whole(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    command = [sys.executable, "-m", "convscope", "summary", "vgg16", "--size", "224", "--classes", "1000"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wanted = {"features.0", "64x224x224", "86,704,128", "102,764,544", "102,760,448", "212x212", "512x7x7"}
    assert wanted <= words_of(done.stdout)
    assert "138,365,992 parameters, 15,470,264,320 multiply-accumulates an image" in done.stdout.splitlines()


@pytest.mark.parametrize("verb", ["summary", "verify", "evaluate", "bench", "export"])
def test_the_tables_of_all_commands_have_the_same_words_at_every_width(
    run, lenet_artifact, lenet_checkpoint, tmp_path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    words = {
        "summary": (lenet_checkpoint,),
        "verify": (lenet_artifact, "--data", "digits"),
        "evaluate": (lenet_checkpoint, "--data", "digits"),
        "bench": (lenet_artifact, "--batches", "1", "--seconds", 0.01),
        "export": (lenet_checkpoint, "--out", tmp_path),
    }[verb]
    if verb == "bench":  # which keeps its results in the artifact
        monkeypatch.setattr("export.cli.bench.write_record", lambda *_, **__: "bench.json")
    found = []
    for columns in ("200", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        outcome = run(verb, *words)
        assert outcome.status == 0 and "…" not in outcome.out, outcome.err
        shown = {word for word in words_of(outcome.out) if re.search(r"\w", word)}
        found.append({re.sub(r"[\d.,]+", "0", word) if verb in MEASURED else word for word in shown})
    assert found[0] == found[1]


def test_the_widest_table_is_not_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table = make_table("file", "bytes", title="a [title]: it is longer than the console", left=("file",))
    table.add_row("a name with [brackets] and :smile:.png", "51,380,224")
    table.caption = "a caption that is longer than the console"
    print_table(make_console(), table)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "a [title]: it is longer than the console"
    assert "a name with [brackets] and :smile:.png 51,380,224" in lines
    assert lines[-1] == "a caption that is longer than the console"


def test_a_table_that_fits_keeps_its_lines_and_the_console_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    before = console.width
    table = make_table("a", "b")
    table.add_row("1", "2,000")
    print_table(console, table)
    assert "│ 1 │ 2,000 │" in capsys.readouterr().out
    assert console.width == before


def test_only_this_module_makes_consoles_and_tables() -> None:
    """So that no other command cuts numbers again."""
    root = Path(training.__path__[0]).parent
    for file in (file for name in ("models", "training", "export", "service") for file in (root / name).rglob("*.py")):
        text = file.read_text()
        made = re.search(r"\b(Console|Table)\(", text) if re.search(r"^from rich", text, re.M) else None
        assert made is None or file == root / "training/cli/console.py", file
