"""Folders that cannot be read, for a user who is refused."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="root needs setpriv to be refused")
@pytest.mark.parametrize(
    ("locked", "mode", "named"),
    [
        *(("b/below", 0o000, "/b/below"), ("b", 0o000, "/b"), (".", 0o000, "")),
        *(("b", 0o444, r"/b/\d\.bmp"), (".", 0o444, "/[ab]")),
    ],
)
def test_folders_that_may_not_be_read_are_no_smaller_data_sets(
    locked: str, mode: int, named: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for number, folder in product(range(5), ("a", "b", "b/below")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 5), number).save(root / folder / f"{number}.bmp")
    refused = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    code = f"from training.data.datasets import load_dataset; print(len(load_dataset({str(root)!r}).train))"
    (root / locked).chmod(mode)
    try:
        done = subprocess.run([*refused, sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    finally:
        (root / locked).chmod(0o755)
    assert re.search(rf"UserError: {re.escape(str(root))}{named} cannot be read: Permission denied", done.stderr), done
