"""`convscope verify`: repeats all checks of export on this machine."""

from dataclasses import dataclass
from pathlib import Path

from export.artifact.golden import check_golden, load_golden
from export.artifact.manifest import ArtifactError, check_files, read_manifest
from export.engines.machine import incompatible_files
from export.engines.selection import open_engine, runs_here
from export.verify.accuracy import AccuracyLoss
from export.verify.check import CheckedFile, check_graph, checking_device, correct_of
from export.verify.limits import Limits
from export.verify.parity import Parity, ParityError
from export.verify.reference import REFERENCE, reference_for
from export.verify.speed import measure_speed
from training.data.streaming import Dataset


@dataclass(frozen=True)
class FileReport:
    """Results of one exported file on this machine.

    Attributes:
        file: its name, or `GraphFormat.key`.
        engine, device, precision: how it ran.
        size_bytes: size of the file.
        golden_difference: largest difference of a golden image's probabilities.
        parity: comparison with the network in PyTorch.
        accuracy: on the test set, in [0, 1], or None without one.
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


@dataclass(frozen=True)
class Verification:
    """Results of every file.

    Attributes:
        files: one report per file.
        accuracy, images_per_s: of the network itself, for comparison.
        skipped: files of which only the hash was checked, with the reason.
    """

    files: tuple[FileReport, ...]
    accuracy: float | None
    images_per_s: dict[str, float]
    skipped: dict[str, str]


def verify_artifact(directory: Path, *, test: Dataset | None = None, limits: Limits | None = None) -> Verification:
    """Checks every hash, then compares every graph file on this machine with the network rebuilt from the weights.

    Files that were verified with OpenVINO too are compared with it as well.

    Args:
        directory: the artifact.
        test: labelled images as the network takes them; None uses the golden images alone.
        limits: maximum deviations; accuracies are compared if there is `test`.

    Raises:
        ArtifactError: a hash, a golden image, the parity or an accuracy is wrong; the message names the file and the
            difference.
    """
    limits = limits or Limits()
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    network = reference_for(directory, manifest)
    images = load_golden(directory, manifest)[0]
    elsewhere = incompatible_files(manifest)
    recorded = {*manifest.files, *manifest.runs}
    forms = [form for form in runs_here(manifest) if form.key in recorded and form.file not in elsewhere]
    engines = {
        form.key: open_engine(
            directory, manifest, engine=form.engine, precision=form.precision, device=checking_device(form)
        )
        for form in forms
    }
    wanted = None if test is None else correct_of(network, test)
    found: dict[str, tuple[float, CheckedFile]] = {}
    for form in forms:
        engine, path = engines[form.key], directory / form.key
        golden = check_golden(engine, directory, manifest)
        try:
            checked = check_graph(engine, form, network, images if test is None else test, test, limits)
        except ParityError as error:
            raise ArtifactError(f"{path}: {error}") from None
        if checked.correct is not None and wanted is not None:
            reason = AccuracyLoss.between(wanted, checked.correct).refusal(limits)
            if reason:
                raise ArtifactError(f"{path}: {reason}")
        found[form.key] = golden, checked
    runs = {file: engine.run for file, engine in engines.items()}
    rates = measure_speed({REFERENCE: network, **runs}, images)
    files = tuple(
        FileReport(
            file=file,
            engine=checked.engine.name,
            device=checked.engine.device,
            precision=checked.form.precision,
            size_bytes=manifest.files[checked.form.file].size_bytes,
            golden_difference=golden,
            parity=checked.parity,
            accuracy=checked.accuracy,
            images_per_s=rates[file],
        )
        for file, (golden, checked) in found.items()
    )
    accuracy = None if wanted is None else float(wanted.mean())
    absent = dict.fromkeys(manifest.runs.keys() - found.keys(), "OpenVINO does not run it here")
    return Verification(files, accuracy, rates[REFERENCE], elsewhere | absent)
