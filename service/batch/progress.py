"""Progress of a job on standard error, and the table at its end."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.batch.entries import shard_of
from service.batch.job import Job, Summary
from service.batch.output import Record
from training.cli.console import make_console

_EVERY_S = 10.0  # between lines where standard error is no terminal


@contextmanager
def shown(job: Job) -> Iterator[Callable[[Record], None]]:
    """Yields a function for `Job.run` that shows progress: a bar on a terminal, or a line every 10 seconds."""
    console = make_console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[errors]} errors"),
        TimeRemainingColumn(),
    )
    began = last = time.monotonic()
    rows = errors = now = 0
    total: list[int | None] = [None]
    threading.Thread(target=_count, args=(job, total), daemon=True).start()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("classifying", total=None, rate="", errors=0)

        def tell(record: Record) -> None:
            nonlocal rows, errors, now, last
            counted = job.summary
            rows, errors, now = counted.statistics.rows, counted.statistics.failed, counted.rows_now
            seconds = time.monotonic() - began
            rate = f"{now / seconds:,.0f} images/s" if now else ""
            bar.update(task, completed=rows, total=total[0], rate=rate, errors=errors)
            if not console.is_terminal and time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                of = f" of {total[0]:,}" if total[0] is not None else ""
                left = f", {(total[0] - rows) / now * seconds:,.0f} s left" if total[0] is not None and now else ""
                print(f"{rows:,}{of} images, {rate}, {errors:,} errors{left}", file=sys.stderr, flush=True)

        yield tell


def final_lines(job: Job, summary: Summary) -> Iterator[str]:
    """What a job came to, as lines of text."""
    counted, seconds = summary.statistics, summary.seconds
    rate = summary.rows_now / summary.elapsed_s if summary.elapsed_s else 0
    ready = counted.rows - summary.rows_now
    earlier = f", {ready:,} rows were there already" if ready > 0 else ""
    yield f"{counted.rows:,} rows in {job.output.name}{earlier}"
    yield f"{summary.rows_now:,} images in {summary.elapsed_s:.1f} s, {rate:,.0f} images/s"
    stages = {
        "reading": seconds.reading,
        "decoding": seconds.decoding,
        "network": seconds.network,
        "server": seconds.server,
        "writing": seconds.writing,
    }
    yield "seconds of work: " + ", ".join(f"{name} {taken:.1f}" for name, taken in stages.items() if taken)
    for label, count in counted.labels.most_common(20):
        yield f"  {label}: {count:,} ({count / max(1, counted.rows):.1%})"
    if len(counted.labels) > 20:
        yield f"  {len(counted.labels) - 20} more classes"
    if counted.accuracy is not None:
        yield f"accuracy {counted.accuracy:.2%} on {sum(counted.known):,} images whose class is known"
    for code, count in counted.errors.most_common():
        yield f"{count:,} rows with the error {code}"
    for name, problem in summary.problems.items():
        yield f"shard {shard_of(name)}: {problem}"
    for reason, count in summary.remarks.most_common():
        yield f"passed over: {count:,}, {reason}"


def _count(job: Job, total: list[int | None]) -> None:
    """Counts the entries of a source while it is worked on."""
    with suppress(Exception):  # the job itself reports what is wrong with the source
        total[0] = job.source.count()
