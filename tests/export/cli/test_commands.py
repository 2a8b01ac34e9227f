"""The verbs export, verify, evaluate and summary: what they print, and how they fail: one line and a status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from PIL import Image

import convscope
from export.artifact.manifest import check_files, read_manifest
from models.networks.registry import build_network
from tests.conftest import Outcome, make_checkpoint
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint


def assert_one_line(outcome: Outcome, status: int, says: str) -> None:
    assert outcome.status == status
    assert outcome.err.startswith("convscope: ") and outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert says in outcome.err


@pytest.mark.parametrize("through", ["checkpoint", "artifact", "folder"])
def test_evaluate_gives_the_accuracy_of_each_subject(
    run, lenet_checkpoint: Path, lenet_artifact: Path, through: str
) -> None:
    from export.pipeline.data import load_test
    from models.checkpoint.directory import load_checkpoint

    subject = {"checkpoint": lenet_checkpoint, "artifact": lenet_artifact, "folder": lenet_artifact.parent}[through]
    outcome = run("evaluate", subject, "--data", "digits")
    checkpoint = load_checkpoint(lenet_checkpoint)
    spec = checkpoint.config.input
    test = load_test("digits", checkpoint.config).images
    x = (test.images.permute(0, 3, 1, 2) / 255 - spec.mean[0]) / spec.std[0]
    right = (checkpoint.network(x).argmax(1) == test.labels).float().mean().item()
    assert outcome.status == 0 and outcome.err == ""
    assert f"on digits: {right:.2%} correct" in outcome.out
    assert ("PyTorch" in outcome.out) == (through == "checkpoint")
    assert ("onnxruntime" in outcome.out) == (through != "checkpoint")


def test_evaluate_says_when_a_folder_has_changed_since_the_training(run, tmp_path: Path) -> None:
    for label in ("cat [old]", "cat [new]"):
        for split, count in (("train", 8), ("test", 2)):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for index in range(count):
                image = Image.new("L", (28, 28), 20 * index + len(label))
                image.save(tmp_path / "photos" / split / label / f"{index}.png")
    checkpoint = train_checkpoint(
        TrainingRequest("lenet", str(tmp_path / "photos"), overrides={"epochs": 1}), out=tmp_path / "run"
    )
    outcome = run("evaluate", checkpoint, "--data", tmp_path / "photos")
    text = " ".join(outcome.out.split())
    assert "correct of 4 test images" in text and "has changed" not in text
    assert "cat [old]" in text and "cat [new]" in text
    (tmp_path / "photos/train/cat [new]/0.png").rename(tmp_path / "photos/test/cat [new]/moved.png")
    outcome = run("evaluate", checkpoint, "--data", tmp_path / "photos")
    assert outcome.status == 0 and "has changed since the training" in " ".join(outcome.out.split())


def test_export_writes_a_sound_artifact_and_says_where(run, lenet_checkpoint: Path, tmp_path: Path) -> None:
    outcome = run("export", lenet_checkpoint, "--formats", "torchscript", "--name", "other", "--out", tmp_path)
    assert outcome.status == 0 and outcome.err == ""
    assert f"artifact: {tmp_path}/other/1\nnext: convscope serve {tmp_path}/other/1\n" in outcome.out
    assert "80 images at batches 1, 2, 7, 64, 256" in " ".join(outcome.out.split())
    check_files(tmp_path / "other" / "1", read_manifest(tmp_path / "other" / "1"))


def test_export_adds_to_a_triton_repository_and_to_bentomls_store(
    run, lenet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Path] = []
    monkeypatch.setattr("export.artifact.store.register", lambda path: registered.append(path) or "lenet:1")
    words = ["--formats", "onnx", "--out", tmp_path / "a", "--triton", tmp_path / "t", "--bentoml"]
    outcome = run("export", lenet_checkpoint, *words)
    assert outcome.status == 0 and registered == [tmp_path / "a/lenet/1"]
    assert f"Triton model: {tmp_path}/t/lenet\nBentoML model: lenet:1\nnext: " in outcome.out
    assert (tmp_path / "t/lenet/1/model.onnx").read_bytes() == (tmp_path / "a/lenet/1/model.onnx").read_bytes()


def test_verify_reports_every_file(run, lenet_artifact: Path) -> None:
    outcome = run("verify", lenet_artifact)
    assert outcome.status == 0 and outcome.err == ""
    for text in ("lenet:1 verified (cpu)", "model.onnx", "model.ts", "PyTorch", "100.00%"):
        assert text in outcome.out


def test_verify_with_data_gives_an_accuracy(run, lenet_artifact: Path) -> None:
    measured = run("evaluate", lenet_artifact, "--data", "digits").out.split("digits: ")[1].split()[0]
    outcome = run("verify", lenet_artifact.parent, "--data", "digits")
    assert outcome.status == 0
    assert outcome.out.count(measured) == 3  # of both files and of the network in PyTorch


def test_verify_names_the_damaged_file(run, copy: Path) -> None:
    content = bytearray((copy / "model.ts").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.ts").write_bytes(content)
    assert_one_line(run("verify", copy), 1, f"{copy / 'model.ts'}: sha256 is")


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_summary_of_a_network_has_the_totals(run, name: str) -> None:
    outcome = run("summary", name)
    size, channels = (28, 1) if name == "lenet" else (32, 3)
    network = build_network(name, channels=channels, height=size, width=size, classes=10)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert outcome.status == 0 and outcome.err == ""
    assert f"{name} for {size}x{size}" in outcome.out
    assert f"{count:,} parameters" in outcome.out
    for node in torchvision.models.feature_extraction.get_graph_node_names(network)[1][1:]:
        assert f" {node} " in outcome.out
    assert "…" not in outcome.out  # in 80 columns numbers are broken, not cut off


def test_summary_takes_size_channels_and_classes(run) -> None:
    outcome = run("summary", "resnet18", "--size", 224, "--classes", 1000)
    assert "11,689,512 parameters, 1,814,073,344 multiply-accumulates" in outcome.out
    assert "435x435" in outcome.out


def test_summaries_of_a_checkpoint_and_its_artifact_agree(run, lenet_checkpoint: Path, lenet_artifact: Path) -> None:
    first, second = (run("summary", path).out.splitlines()[1:] for path in (lenet_checkpoint, lenet_artifact))
    assert [line.strip() for line in first] == [line.strip() for line in second]
    assert any("61,706 parameters" in line for line in first)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["summary", "lenett"], "no network is called 'lenett'; did you mean lenet"),
        (["summary", "lenet", "--size", "30"], "LeNet takes 28x28 or 32x32 images, got 30x30"),
        (["summary", "lenet", "--size", "large"], "large"),
        (["summary"], "subject"),
        (["export", "x", "--formats", "coreml"], "no format is called 'coreml'; known are onnx, torchscript, pt2"),
        (["export", "x", "--formats", ","], "no format was given"),
        (["export", "x", "--precision", "fp8"], "no precision is called 'fp8'; known are fp32, fp16, bf16, int8"),
        (["export", "x", "--precision", "int8"], "fp32 cannot be left out"),
        (["export", "x", "--precision", "fp32,int8"], "int8 needs the data set"),
        (["export", "x", "--limit-points", "-1"], "must be at least 0"),
        (["export"], "checkpoint"),
        (["evaluate", "x"], "data"),
        (["verify", "x", "--colour", "red"], "--colour"),
        (["exprot", "x"], "exprot"),
    ],
)
def test_bad_arguments_are_status_2_and_one_line(run, arguments: list[str], says: str) -> None:
    outcome = run(*arguments)
    assert_one_line(outcome, 2, "")
    assert says.lower() in outcome.err.lower()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "nowhere"], "nowhere/config.json does not exist: no checkpoint there"),
        (["verify", "nowhere"], "nowhere is not an artifact: no manifest.json in it"),
        (["evaluate", "nowhere", "--data", "digits"], "nowhere is not an artifact"),
    ],
)
def test_work_that_fails_is_status_1_and_one_line(
    run, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(*arguments), 1, says)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("stripes", "stripes has the classes horizontal, vertical; the network has 0, 1"),
        ("digit", "no data set is called 'digit', and no folder either; did you mean digits"),
        ("mnist", "mnist"),
    ],
)
def test_data_that_does_not_fit_is_one_line(
    run, lenet_artifact: Path, data: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVSCOPE_DATA_DIR", raising=False)
    assert_one_line(run("evaluate", lenet_artifact, "--data", data), 1, says)


@pytest.mark.parametrize("file", ["model.onnx", "model.ts", "weights.safetensors"])
def test_a_file_that_is_no_model_is_one_line(run, copy: Path, file: str) -> None:
    (copy / file).write_bytes(b"no model")
    assert_one_line(run("verify", copy), 1, f"{file}: sha256 is")
    if file == "model.onnx":  # which evaluate opens
        assert_one_line(run("evaluate", copy, "--data", "digits"), 1, f"{file}: sha256 is")


def test_an_unfinished_run_is_one_line(run, tmp_path: Path) -> None:
    (tmp_path / "resume.pt").touch()
    assert_one_line(run("export", tmp_path), 1, "continue it with --resume")


def test_a_failed_comparison_is_status_1_and_publishes_nothing(
    run, lenet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.verify.parity.LIMIT_FP32", 0.0)
    monkeypatch.setattr("export.verify.check.compare", _strict)
    outcome = run("export", lenet_checkpoint, "--formats", "torchscript", "--out", tmp_path)
    assert_one_line(outcome, 1, "nothing was exported")
    assert os.listdir(tmp_path) == []


def _strict(run_file, network, images, *, batches, limit):  # type: ignore[no-untyped-def]
    from export.verify.parity import compare

    return compare(run_file, lambda x: (network(x)[0][:, ::-1], network(x)[1]), images, batches=batches)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not an artifact"):
        convscope.main(["verify", str(tmp_path / "x"), "--debug"])


def test_the_installed_command_fails_in_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("convscope")
    done = subprocess.run([command, "verify", tmp_path / "x"], capture_output=True, text=True, check=False)
    assert_one_line(Outcome(done.returncode, done.stdout, done.stderr), 1, "is not an artifact")
    assert done.stdout == ""


@pytest.mark.parametrize("verb", ["export", "verify", "evaluate", "summary"])
def test_help_has_an_example(run, verb: str) -> None:
    outcome = run(verb, "--help")
    assert outcome.status == 0
    assert f"convscope {verb} " in " ".join(outcome.out.replace("│", " ").split())
    assert "For example" in outcome.out


def test_a_damaged_checkpoint_is_one_line(run, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", count=8)
    samples = checkpoint / "samples.npz"
    samples.write_bytes(samples.read_bytes()[:500])
    assert_one_line(run("export", checkpoint, "--out", tmp_path / "a"), 1, "samples.npz holds no sample images")
    (checkpoint / "config.json").write_text("[]")
    assert_one_line(run("summary", checkpoint), 2, "config.json: ")
