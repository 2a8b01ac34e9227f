"""`convscope bench` measures every file in a process of its own, and the engine `auto` follows what it found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.artifact.formats import GRAPH_FORMATS
from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.bench_record import BENCH_FILE, Row, Timing, measured_order, write_record
from export.engines.protocol import EngineError
from export.engines.selection import open_engine
from export.verify.benchmark import benchmark, best_row, measurements
from models.cores import available_cores
from service.serving.artifact_scan import scan
from service.settings import read_settings
from tests.conftest import Outcome

ONNX, FP16, INT8, TORCHSCRIPT, _, _, PT2, AOTI = GRAPH_FORMATS


def row(form: Any, rate: float, device: str = "cpu") -> Row:
    timing = Timing(batch=1, images_per_s=rate, p50_ms=1e3 / rate, p99_ms=2e3 / rate, runs=9)
    return Row(form=form, device=device, timings=(timing,), memory_mb=100.0)


@pytest.fixture
def artifact(lenet_artifact: Path, tmp_path: Path) -> Path:
    """The same files in a folder that can be written to."""
    folder = tmp_path / "lenet" / "1"
    folder.mkdir(parents=True)
    for file in lenet_artifact.iterdir():
        (folder / file.name).hardlink_to(file)
    return folder


def test_every_file_runs_at_every_batch_and_one_that_cannot_stops_no_other(lenet_artifact: Path) -> None:
    forms, calls = [ONNX, INT8, TORCHSCRIPT], list[None]()
    rows = benchmark(
        lenet_artifact,
        forms,
        np.zeros((2, 28, 28, 1), np.uint8),
        batches=[1, 3],
        threads=1,
        seconds=0.01,
        device="cpu",
        report=lambda: calls.append(None),
    )
    assert [(row.form.file, bool(row.failed)) for row in rows] == [
        ("model.onnx", False),
        ("model.int8.onnx", True),  # there is none
        ("model.ts", False),
    ]
    assert "model.int8.onnx" in rows[1].failed and not rows[1].timings and rows[1].images_per_s == 0
    for found in (rows[0], rows[2]):
        assert [timing.batch for timing in found.timings] == [1, 3]
        assert all(timing.runs >= 15 and 0 < timing.p50_ms <= timing.p99_ms for timing in found.timings)
        assert all(timing.images_per_s * timing.p50_ms == pytest.approx(1e3 * timing.batch) for timing in found.timings)
    assert len(calls) == measurements(forms, [1, 3], "cpu") == 18
    assert rows[2].memory_mb > rows[0].memory_mb + 50  # torch is larger than ONNX Runtime


def test_the_fastest_is_of_the_last_device_and_one_that_the_server_opens() -> None:
    rows = [row(ONNX, 90), row(INT8, 300), row(ONNX, 100, "cuda"), row(PT2, 200, "cuda")]
    assert best_row(rows) is rows[2]
    assert best_row([row(PT2, 5), Row(form=ONNX, device="cpu", failed="no")]) is None
    slow_at_one = Row(form=FP16, device="cpu", timings=(*row(ONNX, 1).timings, *row(ONNX, 400).timings))
    assert slow_at_one.images_per_s == pytest.approx(20)  # the geometric mean


@pytest.mark.parametrize(
    ("rows", "wanted", "file"),
    [
        ([row(ONNX, 100), row(TORCHSCRIPT, 200)], {}, "model.ts"),
        ([row(ONNX, 200), row(TORCHSCRIPT, 100)], {}, "model.onnx"),
        ([row(ONNX, 100), row(TORCHSCRIPT, 200)], {"engine": "onnxruntime"}, "model.onnx"),
        ([row(ONNX, 100), row(PT2, 300), row(AOTI, 400)], {}, "model.onnx"),  # opening them runs code: never served
        ([row(ONNX, 100), row(INT8, 300)], {}, "model.onnx"),  # which the artifact does not have
        ([row(ONNX, 100, "cuda"), row(TORCHSCRIPT, 200, "cuda")], {}, "model.onnx"),  # measured elsewhere
        ([], {}, "model.onnx"),
    ],
)
def test_auto_takes_the_fastest_that_fits(artifact: Path, rows: list[Row], wanted: dict[str, Any], file: str) -> None:
    write_record(artifact, rows, threads=2, use=True)
    for precision in ("auto", "fp32"):
        opened = open_engine(artifact, read_manifest(artifact), device="cpu", precision=precision, **wanted)
        assert opened.file == file


def test_auto_asks_for_no_precision_that_was_not_exported(artifact: Path) -> None:
    write_record(artifact, [row(INT8, 300)], threads=2, use=True)
    with pytest.raises(EngineError, match=r"has no model\.int8\.onnx"):
        open_engine(artifact, read_manifest(artifact), precision="int8")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["machine"].update(cores=4096),
        lambda content: content["machine"]["versions"].update(torch="1.0"),
        lambda content: content.update(manifest_sha256="0" * 64),
    ],
)
def test_a_record_of_another_machine_or_artifact_counts_for_nothing(
    artifact: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = write_record(artifact, [row(TORCHSCRIPT, 200), row(ONNX, 100)], threads=2, use=True)
    assert measured_order(artifact, device="cpu") == [TORCHSCRIPT, ONNX]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert measured_order(artifact, device="cpu") == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": 1'])
def test_a_damaged_record_is_named(artifact: Path, text: str) -> None:
    (artifact / BENCH_FILE).write_text(text)
    with pytest.raises(ArtifactError, match=r"bench\.json: .*run `convscope bench` again"):
        open_engine(artifact, read_manifest(artifact))


def test_measuring_alone_decides_nothing(artifact: Path) -> None:
    """Neither at first nor after a decision, which stays."""
    write_record(artifact, [row(TORCHSCRIPT, 200), row(ONNX, 100)], threads=2, use=False)
    assert measured_order(artifact, device="cpu") == []
    assert open_engine(artifact, read_manifest(artifact), device="cpu", precision="auto").file == "model.onnx"
    write_record(artifact, [row(TORCHSCRIPT, 200), row(ONNX, 100)], threads=2, use=True)
    write_record(artifact, [row(TORCHSCRIPT, 100), row(ONNX, 200)], threads=2, use=False)
    assert measured_order(artifact, device="cpu") == [TORCHSCRIPT, ONNX]


def test_a_decision_for_another_artifact_is_not_taken_over(artifact: Path) -> None:
    path = write_record(artifact, [row(TORCHSCRIPT, 200)], threads=2, use=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"manifest_sha256": "0" * 64}))
    write_record(artifact, [row(ONNX, 100)], threads=2, use=False)
    assert measured_order(artifact, device="cpu") == []
    path.write_text("damaged")
    write_record(artifact, [row(ONNX, 100)], threads=2, use=False)
    assert measured_order(artifact, device="cpu") == []


def test_a_record_changes_nothing_for_a_running_server(artifact: Path) -> None:
    before = scan(artifact)
    write_record(artifact, [row(TORCHSCRIPT, 200)], threads=2, use=True)
    assert scan(artifact) == before
    (artifact / "manifest.json").touch()
    assert scan(artifact) != before


def test_the_verb_measures_names_the_fastest_and_keeps_it(artifact: Path, run: Callable[..., Outcome]) -> None:
    words = ("bench", artifact.parent, "--batches", "1,2", "--seconds", "0.02", "--device", "cpu")
    assert "--use lets the engine auto take it" in " ".join(run(*words).out.split())
    assert measured_order(artifact, device="cpu") == []
    done = run(*words, "--use")
    out = " ".join(done.out.split())
    assert done.status == 0
    best = measured_order(artifact, device="cpu")[0]
    assert f"fastest here: {best.file} ({best.engine}, cpu)" in out and "bench.json" in out
    assert f"{available_cores()} threads a run" in out
    assert open_engine(artifact, read_manifest(artifact), device="cpu").file == best.file


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batches", "1,x"], "--batches is '1,x'; it must be whole numbers"),
        (["--batches", "0"], "from 1 to 4096"),
        (["--batches", "8,8"], "each must be different"),
        (["--seconds", "0"], "--seconds above 0"),
        (["--threads", "-1"], "--threads must be at least 0"),
    ],
)
def test_bad_arguments_are_one_line(words: list[str], says: str, run: Callable[..., Outcome]) -> None:
    done = run("bench", "nowhere", *words)
    assert done.status == 2 and done.err.count("\n") == 1
    assert says in done.err


def test_the_server_follows_the_measurement_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSCOPE_PRECISION", raising=False)
    settings = read_settings()
    assert (settings.engine, settings.precision) == ("auto", "auto")
