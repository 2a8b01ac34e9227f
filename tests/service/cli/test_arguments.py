"""Wrong arguments are refused before anything slow is imported: torch takes seconds."""

import subprocess
import sys

import pytest

SLOW = ("torch", "torchvision", "sklearn", "matplotlib", "bentoml")
SCRIPT = f"""
import sys
import convscope
try:
    convscope.main(sys.argv[1:])
finally:
    print("imported:", *(name for name in {SLOW} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("train nosuch --data mnist", 2, "no network is called 'nosuch'"),
        ("train lenet --data nosuch", 2, "no data set is called 'nosuch'"),
        ("train lenet --data digits --epochs -1", 2, "epochs is -1"),
        ("train lenet --data digits --nosuch 1", 2, "Unknown option: --nosuch"),
        ("train lenet --data digits --out taken", 1, "taken holds a finished checkpoint"),
        ("train lenet --data digits --out new --resume", 1, "nothing to resume"),
        ("export nosuch", 1, "nosuch/config.json does not exist"),
        ("export taken --precision fp16,fp32", 2, "fp16 needs the data set"),
        ("evaluate nosuch --data digits", 1, "nosuch is not an artifact"),
        ("evaluate taken --data nosuch", 1, "no data set is called 'nosuch'"),
        ("verify nosuch", 1, "nosuch is not an artifact"),
        ("summary nosuch", 2, "no network is called 'nosuch'"),
        ("summary .", 2, ". is not an artifact"),
        ("bench nosuch", 1, "nosuch is not an artifact"),
        ("import-onnx nosuch --classes a,b --mean 0 --std 1", 1, "the file nosuch does not exist"),
        ("index nosuch --data digits", 1, "nosuch is not an artifact"),
        ("inspect a b --out c.png", 1, "a is not an artifact"),
        ("explain a b --out c", 1, "a is not an artifact"),
        ("unit a b conv1 x", 2, "INDEX is 'x'"),
        ("classify --url x", 2, "no images were given"),
        ("serve nosuch", 1, "no artifact in nosuch"),
        ("demo --port 0", 2, "CONVSCOPE_PORT"),
        ("nosuch", 2, "no command is called 'nosuch'"),
        ("classfy", 2, "did you mean classify?"),
        ("train --help", 0, ""),
        ("--help", 0, ""),
    ],
)
def test_wrong_arguments_are_refused_before_torch_is_imported(tmp_path, words: str, status: int, message: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
    assert done.stderr.count("\n") == (status > 0)
