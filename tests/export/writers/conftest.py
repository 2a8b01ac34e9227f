"""An artifact with files of reduced precision."""

from pathlib import Path

import pytest

from export.pipeline import export as pipeline
from export.pipeline.export import ExportData
from tests.export.writers.reduced_onnx import export_reduced, int8_twice_as_fast


@pytest.fixture(scope="session")
def reduced(trained: Path, data: ExportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact in ONNX with fp32, fp16 and int8; only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure_speed", int8_twice_as_fast)
        return export_reduced(trained, tmp_path_factory.mktemp("reduced"), data)
