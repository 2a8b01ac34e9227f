"""What the README says is compared with what is there."""

import re
import subprocess
import sys
from pathlib import Path

from convscope import VERBS
from service.settings import PREFIX, Settings

README = (Path(__file__).parents[2] / "README.md").read_text()
DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_stands_in_the_readme_with_its_default():
    table = dict(re.findall(r"\| `(CONVSCOPE_\w+)` \| `?([^`|]+?)`? \|", README))
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
