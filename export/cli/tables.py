"""The tables of files that `convscope export` and `verify` print."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import filesize
from rich.table import Table

from export.artifact.formats import RUNS
from export.artifact.manifest import Manifest
from export.verify.reference import REFERENCE
from export.verify.verification import Verification
from training.cli.console import make_table


def verification_table(title: str, verified: Verification, beside: str, remarks: Sequence[str] = ()) -> Table:
    """Results of every file, below the row `beside` of the reference; `remarks` end the caption."""
    reports = verified.files
    table = _files_table(f"{title} verified ({reports[0].device})")
    _add_reference(table, beside, verified.accuracy, verified.images_per_s)
    for report in reports:
        _add_file(table, report.file, report.size_bytes, asdict(report.parity), report.accuracy, report.images_per_s)
    parity = next((report.parity for report in reports if report.parity.limit is not None), reports[0].parity)
    skipped = "".join(f"; {file}: {reason}" for file, reason in verified.skipped.items())
    table.caption = "; ".join([_caption(asdict(parity)) + skipped, *remarks])
    return table


def manifest_table(manifest: Manifest) -> Table:
    """Results of every file in an export."""
    table = _files_table(f"{manifest.name}:{manifest.version} (cpu)")
    _add_reference(table, REFERENCE, **manifest.reference)
    for form in RUNS:
        entry = manifest.files.get(form.key) or manifest.runs.get(form.key)
        if entry is not None:
            size = manifest.files[form.file].size_bytes
            _add_file(table, form.key, size, entry.parity, entry.accuracy, entry.images_per_s)
            if form.precision == "fp32":
                table.caption = _caption(entry.parity)
    return table


def _files_table(title: str) -> Table:
    headings = ("file", "size", "largest", "mean", "top-1", "accuracy", "at 1", "at 32")
    return make_table(*headings, title=title, left=("file",), compact=True)


def _add_reference(table: Table, name: str, accuracy: float | None, images_per_s: dict[str, float]) -> None:
    measured = "" if accuracy is None else f"{accuracy:.2%}"
    table.add_row(name, "", "", "", "", measured, *(f"{rate:,.0f}" for rate in images_per_s.values()))


def _add_file(
    table: Table,
    file: str,
    size_bytes: int,
    parity: dict[str, Any],
    accuracy: float | None,
    images_per_s: dict[str, float],
) -> None:
    table.add_row(
        file,
        filesize.decimal(size_bytes),
        f"{parity['maximum_difference']:.1e}",
        f"{parity['mean_difference']:.1e}",
        f"{parity['top1_agreement']:.2%}",
        "" if accuracy is None else f"{accuracy:.2%}",
        *(f"{rate:,.0f}" for rate in images_per_s.values()),
    )


def _caption(parity: dict[str, Any]) -> str:
    return (
        f"largest and mean difference of probabilities, and share of equal first classes, to the trained network: "
        f"{parity['images']} images at batches {', '.join(map(str, parity['batches']))}, the limit of fp32 is "
        f"{parity['limit'] or 0:g}; then accuracy on the test split, and images/s at batches 1 and 32"
    )
