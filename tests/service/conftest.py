"""The client that most tests of the service share."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.in_process import client_for


@pytest.fixture(scope="module")
def client(lenet_artifact: Path) -> TestClient:
    """A client of the LeNet, in process and with the settings as they are."""
    return client_for(lenet_artifact.parent.parent)
