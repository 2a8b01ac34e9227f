"""A trained network for the tests of reduced precisions: accuracies of random weights would say nothing."""

from pathlib import Path

import pytest

from export.pipeline import export as pipeline
from export.pipeline.data import load_export_data
from export.pipeline.export import ExportData
from models.checkpoint.directory import read_config
from tests.export.writers.reduced_onnx import export_reduced, int8_twice_as_fast
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet trained on the digits; only to be read."""
    return train_checkpoint(
        TrainingRequest("lenet", "digits", overrides={"epochs": 12}), out=tmp_path_factory.mktemp("runs") / "lenet"
    )


@pytest.fixture(scope="session")
def data(trained: Path) -> ExportData:
    """Test and calibration images of the digits; only to be read."""
    return load_export_data("digits", read_config(trained))


@pytest.fixture(scope="session")
def reduced(trained: Path, data: ExportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact in ONNX with fp32, fp16 and int8; only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure_speed", int8_twice_as_fast)
        return export_reduced(trained, tmp_path_factory.mktemp("reduced"), data)
