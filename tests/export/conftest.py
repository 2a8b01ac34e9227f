"""What the tests of artifacts share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(lenet_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the LeNet's artifact, to be damaged."""
    return shutil.copytree(lenet_artifact, tmp_path / "lenet" / "1")
