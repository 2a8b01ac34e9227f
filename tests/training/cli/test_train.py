"""The verb `train` from its words to its files, and the function behind it."""

import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from models.checkpoint.directory import load_checkpoint
from tests.conftest import run_command as run
from tests.training.interruption import interrupt_after
from training.cli.progress import TrainingProgress
from training.data.datasets import load_dataset
from training.data.splits import prepare_splits
from training.evaluate.evaluation import Evaluation, evaluate, logits_of
from training.evaluate.plots import draw_confusion, draw_curves, draw_mistakes, write_figures
from training.evaluate.temperature import fit_temperature
from training.events import EpochFinished, Event, RunFinished, RunStarted, StepFinished
from training.loop.learner import make_forward
from training.recipes.recipe import Recipe
from training.run.directory import new_run_directory, resumable_run_directory
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

pytestmark = pytest.mark.usefixtures("own_directory")
PICTURES = {"curves.png", "confusion.png", "mistakes.png"}
FILES = {"config.json", "model.safetensors", "samples.npz", "log.jsonl", "predictions.csv"} | PICTURES
DIGITS = ["train", "lenet", "--data", "digits"]


def interrupted(out: Path, *, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", overrides={"epochs": 3}), out=out, report=interrupt_after(after)
        )


def test_digits_are_learnt_and_the_checkpoint_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*DIGITS, "--epochs", "15") == 0
    out = Path("runs/lenet-digits")
    assert {path.name for path in out.iterdir()} == FILES
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 15
    assert lines[-2:] == [f"checkpoint: {out}", f"next: convscope export {out}"]
    checkpoint = load_checkpoint(out)
    assert checkpoint.config.metrics["test"]["accuracy"] >= 0.97
    assert checkpoint.config.dataset["counts"] == {"train": 1294, "validation": 144, "test": 359}
    for name in PICTURES:
        with Image.open(out / name) as image:
            assert image.width >= 400


@pytest.mark.usefixtures("without_pictures")
def test_the_metrics_are_those_of_the_saved_weights() -> None:
    out = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 2}))
    checkpoint = load_checkpoint(out)
    _, data = prepare_splits(load_dataset("digits"), size=(28, 28), fraction=0.1, seed=0)
    classify = make_forward(checkpoint.network, checkpoint.config.input, device=torch.device("cpu"))
    result = evaluate(classify, data.test, temperature=checkpoint.config.temperature)
    before = evaluate(classify, data.test).reliability.calibration_error
    wanted = result.to_json() | {"calibration_error_before_temperature": before}
    assert wanted == pytest.approx(checkpoint.config.metrics["test"], rel=1e-4)
    validation = logits_of(classify, data.validation)
    assert checkpoint.config.temperature == pytest.approx(fit_temperature(validation, data.validation.labels), rel=1e-4)


def test_evaluate_writes_its_findings(capsys: pytest.CaptureFixture[str]) -> None:
    out = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 2}))
    assert run("evaluate", str(out), "--data", "digits", "--out", "found") == 0
    assert capsys.readouterr().out.endswith("evaluation: found\n")
    names = {"evaluation.json", "predictions.csv", "confusion.png", "reliability.png", "mistakes.png"}
    assert {path.name for path in Path("found").iterdir()} == names
    content = json.loads(Path("found/evaluation.json").read_text())
    trained = load_checkpoint(out).config
    assert content["temperature"] == trained.temperature
    for name in ("accuracy", "top5_accuracy", "loss", "calibration_error", "calibration_error_before_temperature"):
        assert content[name] == pytest.approx(trained.metrics["test"][name], rel=1e-4)


@pytest.mark.parametrize("model", ["lenet", "simple_cnn"])
@pytest.mark.usefixtures("without_pictures")
def test_stripes_are_told_apart_without_a_mistake(model: str) -> None:
    out = train_checkpoint(TrainingRequest(model, "stripes", overrides={"epochs": 3}))
    assert load_checkpoint(out).config.metrics["test"]["accuracy"] == 1


@pytest.mark.usefixtures("without_pictures")
def test_a_folder_is_trained_on_with_options_and_another_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 128)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(level, level + 128, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.jpg")
    words = ["--size", "32", "--option", "hidden=20", "--epochs", "2", "--no-flip", "--label-smoothing", "0.1"]
    assert run("train", "lenet", "--data", "pets", *words) == 0
    config = load_checkpoint(Path("runs/lenet-pets")).config
    assert (config.classes, config.input.shape) == (("dark", "light"), (32, 32, 3))
    assert (config.input.resize, config.input.crop, config.input.background) == (32, (32, 32), (255, 255, 255))
    assert config.options["hidden"] == [20]
    assert (config.recipe["flip"], config.recipe["label_smoothing"]) == (False, 0.1)


@pytest.mark.usefixtures("without_pictures")
def test_events_come_in_their_order() -> None:
    events: list[Event] = []
    out = train_checkpoint(
        TrainingRequest("lenet", "digits", overrides={"epochs": 2, "batch_size": 500}), report=events.append
    )
    kinds = [
        RunStarted,
        StepFinished,
        StepFinished,
        StepFinished,
        EpochFinished,
        StepFinished,
        StepFinished,
        StepFinished,
        EpochFinished,
        RunFinished,
    ]
    assert [type(event) for event in events] == kinds
    assert isinstance(events[-1], RunFinished) and events[-1].directory == out


@pytest.mark.usefixtures("without_pictures")
def test_a_terminal_gets_a_bar_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.cli.progress.READ_EVERY_S", 0)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with TrainingProgress(console) as progress:
        train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 2}), report=progress)
        task = progress.bar.tasks[0]
        assert task.completed == task.total == 2 * 1294
        assert re.match(r"loss \d\.\d+  accuracy \d+\.\d+%  [\d,]+ images/s", task.fields["figures"])


def test_an_interrupted_run_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    interrupted(tmp_path / "parts", after=2)
    assert not (tmp_path / "parts/config.json").exists()
    content = torch.load(tmp_path / "parts/resume.pt", weights_only=True)
    content["facts"]["dataset"]["told"] = "by another version, about the same images"
    torch.save(content, tmp_path / "parts/resume.pt")
    assert run(*DIGITS, "--out", "parts", "--resume") == 0
    assert {path.name for path in (tmp_path / "parts").iterdir()} == FILES
    whole = load_checkpoint(
        train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 3}), out=tmp_path / "whole")
    )
    parts = load_checkpoint(tmp_path / "parts")
    assert parts.config.metrics == whole.config.metrics
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(parts.network.state_dict()[name], weights)


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show, interrupt = TrainingProgress.__call__, interrupt_after(1, step=1)

    def show_and_interrupt(progress: TrainingProgress, event: Event) -> None:
        show(progress, event)
        interrupt(event)

    monkeypatch.setattr(TrainingProgress, "__call__", show_and_interrupt)
    assert run(*DIGITS) == 130
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "interrupted; resume with: convscope train lenet --data digits --out runs/lenet-digits --resume"


def test_the_command_to_go_on_with_has_the_processes_and_what_the_data_was_read_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "resume.pt").touch()
    with TrainingProgress(Console(width=500)) as progress:
        progress.directory, progress.processes = tmp_path, 2
        progress.print_resume_command("lenet", "my photos", ["--skip-bad"])
    told = capsys.readouterr().out.splitlines()[-1].partition("resume with: ")[2]
    words = ["torchrun", "--nproc-per-node", "2", "-m", "convscope", "train", "lenet", "--data", "my photos"]
    assert shlex.split(told) == [*words, "--out", str(tmp_path), "--resume", "--skip-bad"]


def test_a_run_that_does_not_fit_is_not_resumed(tmp_path: Path) -> None:
    interrupted(tmp_path / "x", after=1)
    with pytest.raises(ValueError, match=r"cannot resume .*x: epochs is 3 in that run and 9 now"):
        train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 9}), out=tmp_path / "x", resume=True)
    with pytest.raises(ValueError, match=r"cannot resume .*x: model is 'lenet' in that run and 'lenet1998' now"):
        train_checkpoint(TrainingRequest("lenet1998", "digits"), out=tmp_path / "x", resume=True)


@pytest.mark.usefixtures("without_pictures")
def test_what_is_overwritten_stays_until_the_new_run_is_complete(tmp_path: Path) -> None:
    train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 1}), out=tmp_path)
    old = load_checkpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", overrides={"epochs": 2}),
            out=tmp_path,
            overwrite=True,
            report=interrupt_after(1),
        )
    kept = load_checkpoint(tmp_path)
    assert kept.config == old.config and (tmp_path / "resume.pt").is_file()
    with pytest.raises(ValueError, match="holds a finished checkpoint; --overwrite replaces it"):
        new_run_directory(tmp_path, model="lenet", dataset="digits")
    train_checkpoint(TrainingRequest("lenet", "digits"), out=tmp_path, resume=True)
    assert load_checkpoint(tmp_path).config.recipe["epochs"] == 2 and not (tmp_path / "resume.pt").exists()


def test_no_run_is_overwritten_unless_asked(tmp_path: Path) -> None:
    base = Path("runs/lenet-digits")
    assert new_run_directory(None, model="lenet", dataset="digits") == base
    base.mkdir(parents=True)
    (base / "config.json").touch()
    assert new_run_directory(None, model="lenet", dataset="digits") == base.with_name("lenet-digits-2")
    assert new_run_directory(base, model="lenet", dataset="digits", overwrite=True) == base
    with pytest.raises(ValueError, match="holds a finished checkpoint; --overwrite replaces it"):
        new_run_directory(base, model="lenet", dataset="digits")
    with pytest.raises(ValueError, match="nothing to resume: no unfinished run in runs/lenet-digits"):
        resumable_run_directory(None, model="lenet", dataset="digits")
    second = base.with_name("lenet-digits-2")
    second.mkdir()
    (second / "resume.pt").touch()
    assert resumable_run_directory(None, model="lenet", dataset="digits") == second
    assert new_run_directory(None, model="lenet", dataset="digits") == base.with_name("lenet-digits-3")
    with pytest.raises(ValueError, match="holds an unfinished run; continue it with --resume"):
        new_run_directory(second, model="lenet", dataset="digits")
    for out, message in ((base, "holds a finished checkpoint"), (tmp_path / "none", "resume.pt does not exist")):
        with pytest.raises(ValueError, match=f"nothing to resume: .*{message}"):
            resumable_run_directory(out, model="lenet", dataset="digits")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["lenett", "--data", "digits"], 2, "no network is called 'lenett'; did you mean lenet"),
        (["lenet", "--data", "digit"], 2, "no data set is called 'digit', and no folder either; did you mean digits"),
        (["lenet", "--data", "digits", "--epochs", "0"], 2, "epochs is 0; it must be at least 1"),
        (["lenet", "--data", "digits", "--device", "tpu"], 2, "device is 'tpu'"),
        (["lenet", "--data", "digits", "--size", "0"], 2, "--size is 0"),
        (["lenet", "--data", "digits", "--option", "x=1"], 2, "lenet has no option 'x'"),
        (["lenet", "--data", "digits", "--size", "20"], 2, "LeNet takes 28x28 or 32x32 images, got 20x20"),
        (["lenet", "--data", "digits", "--option", "hidden=abc"], 2, "lenet cannot be built with hidden=('abc',)"),
        (["lenet", "--data", "digits", "--option", "hidden=-5"], 2, "lenet cannot be built with hidden=(-5,)"),
        (["simple_cnn", "--data", "digits", "--option", "dropout=x"], 2, "simple_cnn cannot be built with dropout='x'"),
        (["mobilenet_v2", "--data", "digits", "--option", "dropout=x"], 2, "mobilenet_v2 cannot be built"),
        (["torchvision:resnet18", "--data", "digits", "--option", "groups=x"], 2, "resnet18 cannot be built"),
        (["inception_v3", "--data", "digits", "--size", "32"], 2, "inception_v3 does not take 32x32 images"),
        (["lenet", "--data", "mnist"], 1, "looked for in data/MNIST/raw"),
        (["lenet", "--data", "digits", "--resume"], 1, "nothing to resume"),
    ],
)
def test_errors_are_one_line_with_their_status(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *words) == status
    told = capsys.readouterr().err
    assert told.startswith("convscope: ") and message in told and told.count("\n") == 1
    assert not Path("runs").exists()


def test_the_help_lists_every_setting_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help") == 0
    told = capsys.readouterr().out
    names = [field.name.replace("_", "-") for field in fields(Recipe)]
    switches = [field.name.replace("_", "-") for field in fields(Recipe) if isinstance(field.default, bool)]
    for flag in (*names, *(f"no-{name}" for name in switches), "option", "resume"):
        assert re.search(rf"--{flag}\b(?!-)", told), flag


def test_pictures_are_drawn_without_mistakes_and_with_many_classes(tmp_path: Path) -> None:
    k = 40
    probabilities = np.eye(k, dtype=np.float32)
    line = EpochFinished(
        epoch=1,
        train_loss=1.0,
        train_accuracy=0.5,
        validation_loss=1.0,
        validation_accuracy=0.5,
        learning_rate=0.1,
        images_per_s=1.0,
        seconds=1.0,
    )
    classes = [f"a $class_ with a long name {i}" for i in range(k)]
    images = np.zeros((k, 8, 8, 3), dtype=np.uint8)
    test = Evaluation(0.0, probabilities, np.arange(k))
    figures = {
        "curves.png": draw_curves([line]),
        "confusion.png": draw_confusion(test, classes=classes),
        "mistakes.png": draw_mistakes(test, images[:0], classes=classes),
    }
    write_figures(tmp_path, figures)
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert json.loads(json.dumps(line.to_json()))["epoch"] == 1


@pytest.mark.usefixtures("without_pictures")
def test_classes_what_is_measured_on_and_images_that_are_learnt_too_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("train", "val"):
        for i in range(12):
            (folder := Path(f"photos/{name}/kind{i:02}")).mkdir(parents=True)
            for j in range(2):
                Image.new("L", (8, 8), 20 * i + j).save(folder / f"{j}.bmp")
    assert run("train", "mlp", "--data", "photos", "--epochs", "1", "--out", "out") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("12 classes: kind00, kind01, ") and told[1].endswith(", kind09, ...")
    assert told[2] == "there is no test/: val/ is measured on, and the validation images are of train/"
    assert told[3] == "24 test images are also training images: the test accuracy will be too high"
    dataset = load_checkpoint(Path("out")).config.dataset
    assert (dataset["test_folder"], dataset["duplicates"]) == ("val", 24)


def test_pictures_that_cannot_be_drawn_lose_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed")

    monkeypatch.setattr("training.run.train.draw_confusion", fail)
    assert run("train", "mlp", "--data", "digits", "--epochs", "1", "--out", "out") == 0
    assert "the pictures could not be drawn: 'utf-8' codec" in capsys.readouterr().out
    assert load_checkpoint(Path("out")).config.metrics["test"]["worst_recall"] >= 0


@pytest.mark.usefixtures("without_pictures")
def test_what_is_passed_over_is_counted_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        for i in range(12):
            (folder := Path("photos", name)).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i + len(name) * (name == "dog")).save(folder / f"{i}.png")
    Image.new("L", (8, 8), 40).save("photos/dog/same.png")
    Path("photos/cat/photo.heic").write_bytes(b"x")
    Path("photos/cat/broken.jpg").write_bytes(b"x")
    assert run("train", "mlp", "--data", "photos", "--epochs", "1", "--out", "out", "--skip-bad") == 0
    told = capsys.readouterr().out
    assert "1 damaged files are left out; unused-files.tsv has" in told
    assert "passed over, as they are no images by their names: 1 .heic; unused-files.tsv lists them" in told
    assert "1 image is in two classes, for example cat/2.png and dog/same.png" in told
    rows = [line.split("\t") for line in Path("out/unused-files.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["cat/broken.jpg", "cat/photo.heic"]
    assert "is not an image" in rows[0][1]
    dataset = load_checkpoint(Path("out")).config.dataset
    assert (dataset["passed_over"], dataset["ambiguous"]["count"]) == ({".heic": 1}, 1)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [Path(sys.executable).with_name("convscope"), *DIGITS, "--print-recipe"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr and not process.stdout.close()
        assert process.wait(60) == 128 + 13 and process.stderr.read() == b""  # as the shell says of SIGPIPE
