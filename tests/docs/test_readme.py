"""What the README says is compared with what is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from convscope import VERBS
from service.settings import PREFIX, Settings
from tests.in_process import digit, encoded

README = (Path(__file__).parents[2] / "README.md").read_text()
DOCS = Path(__file__).parents[2] / "docs"
FROM_HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_every_setting_is_documented_with_its_default():
    table = dict(re.findall(r"\| `(CONVSCOPE_\w+)` \| `?([^`|]+?)`? \|", (DOCS / "settings.md").read_text()))
    fields = Settings.model_fields
    assert set(table) == {f"{PREFIX}{name.upper()}" for name in fields}
    for name, field in fields.items():
        shown = table[f"{PREFIX}{name.upper()}"]
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        assert shown == ("none" if field.default in (None, "") else default)


def test_every_verb_stands_in_the_readme():
    assert set(re.findall(r"^\| `convscope ([\w-]+)", README, re.M)) == set(VERBS)


def test_every_link_in_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (Path(__file__).parents[2] / target).is_file(), target


def test_the_program_in_the_artifact_page_runs(lenet_artifact, tmp_path):
    program = re.search(r"```python\n(.*?)```", (DOCS / "artifact.md").read_text(), re.S)[1]
    program = program.replace("artifacts/lenet-digits/1", str(lenet_artifact))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "(1, 6, 28, 28)\n", done.stderr


def test_the_program_in_the_readme_runs(lenet_artifact, tmp_path):
    (program,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.S) if "convscope.load" in text]
    (tmp_path / "artifacts/lenet-digits").mkdir(parents=True)
    (tmp_path / "artifacts/lenet-digits/1").symlink_to(lenet_artifact)
    (tmp_path / "runs/lenet-digits").mkdir(parents=True)
    (tmp_path / "runs/lenet-digits/example.png").write_bytes(encoded(digit(1)))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=FROM_HERE
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] in "0123456789" and lines[2].startswith("the body (12 bytes")
    assert lines[3] == "{'conv1': (6, 28, 28), 'conv2': (16, 10, 10)}"
    assert "multiply-accumulates an image" in lines[-1]
