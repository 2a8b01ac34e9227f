"""The verb `convscope bench`."""

from pathlib import Path

from cyclopts import CycloptsError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from export.artifact.directory import newest_version
from export.artifact.golden import load_golden
from export.artifact.manifest import check_files, read_manifest
from export.engines.bench_record import Row, write_record
from export.engines.cuda import Device
from export.engines.machine import incompatible_files
from export.engines.selection import runs_here
from export.verify.benchmark import ROUNDS, WARM_UP_RUNS, benchmark, best_row, measurements
from models.cores import available_cores
from models.errors import UserError
from models.files import UnwritableError
from training.cli.console import make_console, make_table, print_table

LARGEST_BATCH = 4096


def bench(
    artifact: Path,
    *,
    batches: str = "1,8,32,128",
    threads: int = 0,
    device: Device = "auto",
    seconds: float = 1.0,
    use: bool = False,
) -> None:
    """Measures every file of an artifact on this machine: images/s, latency and memory, each in its own process.

    For example `convscope bench artifacts/lenet-mnist`. The results are kept in the artifact as bench.json. With --use
    the engine `auto` takes the file that was fastest on this machine, when a server starts or loads a new version.

    Args:
        artifact: An artifact directory, or its name's folder for the newest version.
        batches: Comma-separated batch sizes.
        threads: Threads per run [default: the cores of this process].
        device: auto is the CPU, and also CUDA if available.
        seconds: Time for each file and batch size, without warm-up.
        use: Let the engine auto take the fastest file; precisions below fp32 have other results.
    """
    try:
        sizes = [int(word) for word in batches.split(",")]
    except ValueError:
        raise CycloptsError(msg=f"--batches is {batches!r}; it must be whole numbers, comma-separated") from None
    if not all(1 <= size <= LARGEST_BATCH for size in sizes) or len(set(sizes)) < len(sizes):
        raise CycloptsError(msg=f"--batches is {batches!r}; each must be different, and from 1 to {LARGEST_BATCH}")
    if threads < 0 or not 0 < seconds < float("inf"):
        raise CycloptsError(msg="--threads must be at least 0, and --seconds above 0")
    threads = threads or available_cores()
    directory = newest_version(artifact)
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    images, _ = load_golden(directory, manifest)
    console, elsewhere = make_console(), incompatible_files(manifest)
    forms = [form for form in runs_here(manifest) if form.file not in elsewhere]
    for file, reason in elsewhere.items():
        console.print(f"{file}: not measured: {reason}")
    with _progress(console) as progress:
        task = progress.add_task("", total=measurements(forms, sizes, device))
        rows = benchmark(
            directory,
            forms,
            images,
            batches=sizes,
            threads=threads,
            seconds=seconds,
            device=device,
            report=lambda: progress.advance(task),
        )
    print_table(console, _table(f"{manifest.name}:{manifest.version}", rows, threads=threads))
    for row in rows:
        if row.failed:
            console.print(f"{row.form.key} on {row.device} does not run: {row.failed}")
    best = best_row(rows)
    if best is None:
        raise UserError(f"none of its files can be served here: {'; '.join(row.failed for row in rows)}")
    console.print(
        f"fastest here: {best.form.file} ({best.form.engine_name}, {best.device}), the mean over the batch sizes"
    )
    try:
        path = write_record(directory, rows, threads=threads, use=use)
        then = ", which the engine auto follows" if use else "; --use lets the engine auto take it"
        console.print(f"kept in {path}{then}")
    except UnwritableError as error:
        raise UserError(f"measured, but not kept for the engine auto: {error}") from None


def _table(title: str, rows: list[Row], *, threads: int) -> Table:
    headings = ("file", "device", "batch", "images/s", "p50 ms", "p99 ms", "runs", "memory MB")
    table = make_table(*headings, title=title, left=("file", "device"), compact=True)
    for row in rows:
        for index, timing in enumerate(row.timings):
            first = (row.form.key, row.device) if index == 0 else ("", "")
            rates = (f"{timing.images_per_s:,.0f}", f"{timing.p50_ms:.3g}", f"{timing.p99_ms:.3g}", str(timing.runs))
            memory = f"{row.memory_mb:,.0f}" if index == 0 else ""
            table.add_row(*first, str(timing.batch), *rates, memory, end_section=timing is row.timings[-1])
    table.caption = (
        f"{threads} threads a run; {ROUNDS} rounds in turns, {WARM_UP_RUNS} runs of warm-up before each; memory is the "
        "most that the file's own process took, its libraries included"
    )
    return table


def _progress(console: Console) -> Progress:
    bar = (TextColumn("measuring"), BarColumn(bar_width=None), TextColumn("{task.completed}/{task.total}"))
    return Progress(*bar, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
