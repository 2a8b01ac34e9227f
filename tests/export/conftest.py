"""What the tests of artifacts share."""

import shutil
from pathlib import Path

import pytest

from export.pipeline.data import load_export_data
from export.pipeline.export import ExportData
from models.checkpoint.directory import read_config
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint


@pytest.fixture
def copy(lenet_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the LeNet's artifact, to be damaged."""
    return shutil.copytree(lenet_artifact, tmp_path / "lenet" / "1")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet trained on the digits, as accuracies of random weights would say nothing; only to be read."""
    return train_checkpoint(
        TrainingRequest("lenet", "digits", overrides={"epochs": 12}), out=tmp_path_factory.mktemp("runs") / "lenet"
    )


@pytest.fixture(scope="session")
def data(trained: Path) -> ExportData:
    """Test and calibration images of the digits; only to be read."""
    return load_export_data("digits", read_config(trained))
