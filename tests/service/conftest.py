"""What most tests of the service share: a client, and an artifact with reference images."""

import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.conftest import run_command
from tests.in_process import client_for


@pytest.fixture(scope="module")
def client(lenet_artifact: Path) -> TestClient:
    """A client of the LeNet, in process and with the settings as they are."""
    return client_for(lenet_artifact.parent.parent)


@pytest.fixture(scope="session")
def indexed_artifact(lenet_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LeNet with reference images of scikit-learn's digits; only to be read."""
    copy = tmp_path_factory.mktemp("indexed") / "lenet" / "1"
    shutil.copytree(lenet_artifact, copy)
    assert run_command("index", str(copy), "--data", "digits", "--references", "3") == 0
    return copy
