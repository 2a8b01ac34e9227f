"""`convscope verify`: everything export proved, proved again on this machine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.artifact import ONNX_FILE, TORCHSCRIPT_FILE, ArtifactError, Manifest, check_files, read_manifest
from export.engine import Engine, EngineName
from export.engines import open_engine
from export.golden import check_golden, load_golden
from export.parity import Parity, ParityError, Run, compare
from export.pipeline import reference
from export.rebuild import rebuild
from models.inputs import Pixels
from training.tensors import Images

GRAPHS: dict[str, EngineName] = {ONNX_FILE: "onnxruntime", TORCHSCRIPT_FILE: "torchscript"}


@dataclass(frozen=True)
class FileReport:
    """What one exported file did here; `accuracy` is on the test set, in [0, 1], if there was one."""

    file: str
    engine: str
    device: str
    golden_difference: float
    parity: Parity
    accuracy: float | None


def verify_artifact(directory: Path, *, test: Images | None = None) -> list[FileReport]:
    """Checks every hash, then every graph file on this machine's engines against the network rebuilt from the weights.

    Args:
        directory: the artifact.
        test: labelled images as the network takes them; the golden images alone are used if None.

    Returns:
        A report a graph file.

    Raises:
        ArtifactError: a hash, a golden image or the parity is wrong; the message names the file and says by how much.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    network = reference(rebuild(directory, manifest))
    images = load_golden(directory, manifest)[0] if test is None else np.asarray(test.images)
    return [
        _verify_file(directory, manifest, file, engine, network, images, test)
        for file, engine in GRAPHS.items()
        if file in manifest.files
    ]


def _verify_file(
    directory: Path,
    manifest: Manifest,
    file: str,
    engine_name: EngineName,
    network: Run,
    images: Pixels,
    test: Images | None,
) -> FileReport:
    engine = open_engine(directory, manifest, engine=engine_name, device="cpu")
    golden = check_golden(engine, directory, manifest)
    try:
        parity = compare(engine.run, network, images)
    except ParityError as error:
        raise ArtifactError(f"{directory / file}: {error}") from None
    accuracy = None if test is None else _accuracy(engine, images, np.asarray(test.labels))
    return FileReport(file, engine.name, engine.device, golden, parity, accuracy)


def _accuracy(engine: Engine, images: Pixels, labels: np.ndarray) -> float:
    predicted = np.concatenate([engine.run(images[i : i + 64])[1].argmax(axis=1) for i in range(0, len(images), 64)])
    return float((predicted == labels).mean())
