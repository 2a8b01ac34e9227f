"""The figures of a report are those of its rows, and the page needs nothing else."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from service.batch.report.content import accuracy_of
from tests.service.batch.conftest import read_rows, write_parquet, write_tar


@pytest.fixture
def source(tmp_path, digits_folder):
    """Digits, a third of them in folders that are no classes, and some that cannot be read."""
    folder = tmp_path / "images"
    shutil.copytree(digits_folder, folder)
    for name in ("1", "4", "7"):
        (folder / name).rename(folder / f"unknown-{name}")
    for number in range(8):
        (folder / f"text {number} <b>&.png").write_text("hello")
    (folder / "0" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def made(batch, source, tmp_path):
    """The report of a job, and its rows."""
    done = batch(source, "--report", tmp_path / "report.json")
    assert done.status == 3, done.err
    return json.loads((tmp_path / "report.json").read_text()), read_rows(tmp_path / "rows.parquet")


def test_counts_are_those_of_the_rows(made):
    report, rows = made
    good = [row for row in rows if row["error_code"] is None]
    assert (report["rows"], report["failed"]) == (len(rows), len(rows) - len(good)) == (189, 9)
    labels = [row["label"] for row in good]
    assert {one["class"]: one["count"] for one in report["classes"]} == {
        str(i): labels.count(str(i)) for i in range(10)
    }
    assert sum(one["share"] for one in report["classes"]) == pytest.approx(1)
    confidence = np.array([row["probability"] for row in good], np.float64)
    counts, _ = np.histogram(confidence, report["confidence"]["edges"])
    assert report["confidence"]["counts"] == counts.tolist()
    lowest = sorted(good, key=lambda row: (row["probability"], row["key"]))[:24]
    assert [one["key"] for one in report["uncertain"]] == [row["key"] for row in lowest]
    errors = {one["code"]: one for one in report["errors"]}
    assert {code: one["count"] for code, one in errors.items()} == {"image_unsupported": 8, "image_empty": 1}
    assert [one["key"] for one in errors["image_unsupported"]["examples"]] == [f"text {i} <b>&.png" for i in range(5)]
    assert report["passed_over"] == {"no image by its name": 1} and report["damaged_shards"] == []


def test_accuracy_confusion_and_calibration_are_those_of_scikit_learn(made):
    report, rows = made
    known = [row for row in rows if row["error_code"] is None and row["truth"] is not None]
    truths, labels = [row["truth"] for row in known], [row["label"] for row in known]
    names = [str(number) for number in range(10)]
    assert report["accuracy"]["value"] == pytest.approx(accuracy_score(truths, labels))
    matrix = np.zeros((10, 10), int)
    for one in report["confusion"]:
        matrix[int(one["truth"]), int(one["label"])] = one["count"]
    assert matrix.tolist() == confusion_matrix(truths, labels, labels=names).tolist()
    for name, score in (("recall", recall_score), ("precision", precision_score)):
        found = [one[name] or 0 for one in report["by_class"]]
        assert found == pytest.approx(score(truths, labels, labels=names, average=None, zero_division=0))
    confidence = np.array([row["probability"] for row in known], np.float64)
    right, error = np.array(truths) == np.array(labels), 0.0
    places = np.digitize(confidence, report["confidence"]["edges"][1:-1])
    for place, one in enumerate(report["calibration"]["bins"]):
        inside = places == place
        assert one["count"] == inside.sum()
        if one["count"]:
            assert one["confidence"] == pytest.approx(confidence[inside].mean())
            assert one["accuracy"] == pytest.approx(right[inside].mean())
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert report["calibration"]["expected_error"] == pytest.approx(error)


@pytest.mark.parametrize(("right", "known"), [(0, 1), (3, 3), (17, 40), (9_900, 10_000)])
def test_the_interval_is_wilsons(right, known):
    found, expected = accuracy_of(right, known), binomtest(right, known).proportion_ci(0.95, "wilson")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_without_labels_there_is_no_accuracy(batch, tmp_path, files):
    shutil.copy(files[0], tmp_path / "one.png")
    for form in ("json", "html"):
        assert batch(tmp_path / "one.png", "--report", tmp_path / f"r.{form}", "--overwrite").status == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["accuracy"] is report["confusion"] is report["calibration"] is report["by_class"] is None
    page = (tmp_path / "r.html").read_text()
    assert "Accuracy" not in page and "Calibration" not in page and "there is nothing to compare with" in page


def test_drift_is_measured_against_the_training_images(run, tmp_path, digits_folder, without_pictures):
    words = ["lenet", "--data", "digits", "--epochs", "1", "--out", tmp_path / "run"]
    assert run("train", *words).status == 0
    counts = json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]
    assert sum(counts["class_counts"]) == counts["counts"]["train"]
    assert run("export", tmp_path / "run", "--out", tmp_path / "artifacts", "--formats", "onnx").status == 0
    (artifact,) = (tmp_path / "artifacts").iterdir()
    out = tmp_path / "rows.parquet"
    done = run("batch", digits_folder, "--artifact", artifact, "--out", out, "--report", tmp_path / "report.json")
    assert done.status == 0, done.err
    drift = json.loads((tmp_path / "report.json").read_text())["drift"]
    labels = [row["label"] for row in read_rows(out)]
    now = np.array([labels.count(str(number)) for number in range(10)]) / len(labels)
    was = np.array(counts["class_counts"]) / sum(counts["class_counts"])
    assert [one["difference"] for one in drift["classes"]] == pytest.approx((now - was).tolist())
    assert drift["distance"] == pytest.approx(np.abs(now - was).sum() / 2)


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "list", "digits"])
def test_the_least_certain_images_are_shown(kind, batch, tmp_path, digits_folder, files):
    source, out = digits_folder, tmp_path / "report.html"
    if kind == "tar":
        source = write_tar(tmp_path / "digits.tar", files, digits_folder)
    elif kind == "parquet":
        source = write_parquet(tmp_path / "digits.parquet", files, digits_folder)
    elif kind == "list":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"{path}\n" for path in files))
    elif kind == "digits":
        source = "digits"
    assert batch(source, "--report", out).status == 0
    rows = read_rows(tmp_path / "rows.parquet")
    lowest = min(rows, key=lambda row: (row["probability"], row["key"]))
    page = out.read_text()
    assert page.count('<img src="data:image/png;base64,') == 24 and 'class="none"' not in page
    first = page.partition('<img src="data:image/png;base64,')[2].partition('"')[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))).convert("L"))
    if kind != "digits":
        path = lowest["key"] if kind == "list" else digits_folder / lowest["key"]
        assert np.array_equal(picture, np.asarray(Image.open(path)))
    else:
        assert picture.shape == (8, 8)


def test_large_images_become_small_ones_and_missing_ones_a_word(batch, tmp_path, lenet_artifact, files):
    source = tmp_path / "images"
    source.mkdir()
    Image.open(files[0]).resize((1500, 700)).convert("RGB").save(source / "large.jpg")
    Image.open(files[1]).save(source / "gone.png")
    assert batch(source).status == 0
    (source / "gone.png").write_bytes(b"")
    assert batch(source, "--resume", "--report", tmp_path / "report.html").status == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and page.count("no picture") == 1 and len(page) < 40_000


def test_a_report_of_a_finished_job_has_the_same_figures(made, batch, source, tmp_path):
    assert batch(source, "--resume", "--report", tmp_path / "again.json").status == 3
    times = {"made", "elapsed_s", "images_per_s", "seconds", "rows_now"}
    again = json.loads((tmp_path / "again.json").read_text())
    assert {key: again[key] for key in again.keys() - times} == {key: made[0][key] for key in made[0].keys() - times}
    assert again["rows_now"] == 0


def test_a_server_gives_the_same_figures_without_drift(server, run, made, source, tmp_path):
    words = ["batch", source, "--url", server.url, "--out", tmp_path / "remote.parquet", "--report"]
    assert run(*words, tmp_path / "remote.json").status == 3
    remote = json.loads((tmp_path / "remote.json").read_text())
    for name in ("rows", "classes", "by_class", "confusion"):
        assert remote[name] == made[0][name]
    assert [(one["code"], one["count"]) for one in remote["errors"]] == [("image_unsupported", 8), ("image_empty", 1)]
    assert remote["model"]["url"] == server.url and remote["drift"] is None
    assert run(*words, tmp_path / "remote.html", "--resume").status == 3
    page = (tmp_path / "remote.html").read_text()
    assert "A server does not tell" in page and page.count("<img ") == 24


def test_a_report_of_another_ending_is_refused_first(batch, tmp_path, digits_folder):
    done = batch(digits_folder, "--report", tmp_path / "report.pdf")
    assert done.status == 1 and "report.pdf; it must end in .html or .json" in done.err
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_asks_for_nothing_and_axe_finds_nothing(scheme, batch, source, tmp_path, browser):
    assert batch(source, "--report", tmp_path / "report.html").status == 3
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"file://{tmp_path}/report.html")
    assert [url for url in asked if not url.startswith("data:")] == [f"file://{tmp_path}/report.html"]
    shown = page.inner_text("body")
    for text in ("189", "image_unsupported", "text 0 <b>&.png", "1 passed over: no image by its name", "Wilson"):
        assert text in shown
    context.close()
    assert complaints == []
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"file://{tmp_path}/report.html")
    found = [
        (one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in Axe().run(page).response["violations"]
    ]
    assert found == []
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
