"""`convscope verify`: everything export proved, proved again on this machine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.artifact import ArtifactError, Manifest, check_files, read_manifest
from export.engine import Engine
from export.engines import open_engine
from export.forms import FORMS, Form
from export.golden import check_golden, load_golden
from export.parity import Parity, ParityError, Run, compare
from export.pipeline import Limits, accuracy_of, reference
from export.rebuild import rebuild
from export.speed import measure_speed
from models.inputs import Pixels
from training.tensors import Images


@dataclass(frozen=True)
class FileReport:
    """What one exported file did here.

    Attributes:
        file, engine, device, precision: what ran where.
        size_bytes: of the file.
        golden_difference: the largest of a golden image's probabilities.
        parity: against the network in PyTorch.
        accuracy: on the test set, in [0, 1], if there was one.
        images_per_s: by batch size.
    """

    file: str
    engine: str
    device: str
    precision: str
    size_bytes: int
    golden_difference: float
    parity: Parity
    accuracy: float | None
    images_per_s: dict[str, float]


def verify_artifact(directory: Path, *, test: Images | None = None, limits: Limits | None = None) -> list[FileReport]:
    """Checks every hash, then every graph file on this machine's engines against the network rebuilt from the weights.

    Args:
        directory: the artifact.
        test: labelled images as the network takes them; the golden images alone are used if None.
        limits: what every file must keep; accuracies are compared if there is `test`.

    Returns:
        A report a graph file.

    Raises:
        ArtifactError: a hash, a golden image, the parity or an accuracy is wrong; the message names the file and says
            by how much.
    """
    limits = limits or Limits()
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    network = reference(rebuild(directory, manifest))
    images = load_golden(directory, manifest)[0] if test is None else np.asarray(test.images)
    forms = [form for form in FORMS if form.file in manifest.files]
    engines = {
        form.file: open_engine(directory, manifest, engine=form.engine, precision=form.precision, device="cpu")
        for form in forms
    }
    wanted = None if test is None else accuracy_of(network, test)
    reports = [
        _verify_file(directory, manifest, form, engines[form.file], network, images, test, wanted, limits)
        for form in forms
    ]
    rates = measure_speed({file: engine.run for file, engine in engines.items()}, images[:64])
    return [
        FileReport(
            file=form.file,
            engine=engines[form.file].name,
            device=engines[form.file].device,
            precision=form.precision,
            size_bytes=manifest.files[form.file].size_bytes,
            golden_difference=golden,
            parity=parity,
            accuracy=accuracy,
            images_per_s=rates[form.file],
        )
        for form, (golden, parity, accuracy) in zip(forms, reports, strict=True)
    ]


def _verify_file(
    directory: Path,
    manifest: Manifest,
    form: Form,
    engine: Engine,
    network: Run,
    images: Pixels,
    test: Images | None,
    wanted: float | None,
    limits: Limits,
) -> tuple[float, Parity, float | None]:
    golden = check_golden(engine, directory, manifest)
    try:
        limit = limits.difference if form.precision == "fp32" else None
        parity = compare(engine.run, network, images, limit=limit)
    except ParityError as error:
        raise ArtifactError(f"{directory / form.file}: {error}") from None
    accuracy = None if test is None else accuracy_of(engine.run, test)
    if accuracy is not None and wanted is not None and wanted - accuracy > limits.accuracy_loss:
        raise ArtifactError(
            f"{directory / form.file}: {accuracy:.2%} of the test images are right, and {wanted:.2%} in the trained "
            f"network; at most {100 * limits.accuracy_loss:g} points may be lost"
        )
    return golden, parity, accuracy
