"""bench.json: results of `convscope bench` on one machine, stored beside the manifest for the engine `auto`."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from export.artifact.formats import RUNS, GraphFormat
from export.artifact.manifest import MANIFEST_FILE, ArtifactError
from export.engines.machine import this_machine
from models.files import atomic_write, sha256_of

BENCH_FILE = "bench.json"  # not in the manifest: it is specific to one machine, and may be missing


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One batch size: images per second of the median run, latency in milliseconds at the 50th and 99th percentile."""

    batch: int
    images_per_s: float
    p50_ms: float
    p99_ms: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file on one device.

    Attributes:
        form: the file, its engine and its precision.
        device: `cpu` or `cuda`.
        timings: by batch size, in the requested order; empty if it failed.
        memory_mb: peak memory of its process, Python and the engine's libraries included, in 10**6 bytes.
        failed: the reason it does not run here; empty if it does.
    """

    form: GraphFormat
    device: str
    timings: tuple[Timing, ...] = ()
    memory_mb: float = 0.0
    failed: str = ""

    @property
    def images_per_s(self) -> float:
        """The geometric mean over the batch sizes; 0 if it failed."""
        rates = [timing.images_per_s for timing in self.timings]
        return math.exp(sum(map(math.log, rates)) / len(rates)) if rates else 0.0


def write_record(directory: Path, rows: list[Row], *, threads: int, use: bool) -> Path:
    """Writes bench.json into an artifact.

    Args:
        use: the engine `auto` follows the record; otherwise it follows what it did before: measuring decides nothing.

    Raises:
        UnwritableError: it cannot be written.
    """
    ran = sorted((row for row in rows if row.timings), key=lambda row: -row.images_per_s)
    order = [(row.form.key, row.device) for row in ran]
    if not use:
        try:
            order = _order_in_use(directory)
        except ArtifactError:  # it is being replaced
            order = []
    measured = [
        {
            "file": row.form.file,
            "engine": row.form.engine,
            "precision": row.form.precision,
            "device": row.device,
            "images_per_s": row.images_per_s,
            "memory_mb": row.memory_mb,
            "timings": [asdict(timing) for timing in row.timings],
        }
        for row in rows
        if row.timings
    ]
    content = {
        "machine": this_machine(),
        "manifest_sha256": sha256_of(directory / MANIFEST_FILE),
        "threads": threads,
        "rows": measured,
        "use": order,
    }
    path = directory / BENCH_FILE
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return path


def measured_order(directory: Path, *, device: str) -> list[GraphFormat]:
    """The artifact's forms from fastest to slowest, as measured on this machine and device, if that is to be used.

    Returns:
        An empty list without a record that is to be used, and for one of another machine, other libraries or another
        manifest.

    Raises:
        ArtifactError: the record cannot be read.
    """
    forms = {form.key: form for form in RUNS}
    return [forms[key] for key, where in _order_in_use(directory) if where == device and key in forms]


def _order_in_use(directory: Path) -> list[tuple[str, str]]:
    """Keys of forms and devices, the fastest first, that a record of this artifact on this machine decided on.

    Raises:
        ArtifactError: the record cannot be read.
    """
    path = directory / BENCH_FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text())
        same = content["manifest_sha256"] == sha256_of(directory / MANIFEST_FILE)
        order = [(key, device) for key, device in content.get("use", ())]
        return order if content["machine"] == this_machine() and same else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: {error!r}; run `convscope bench` again, or remove the file") from None
