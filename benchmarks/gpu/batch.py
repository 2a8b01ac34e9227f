"""Batch jobs on the device, beside their parts alone and beside a DataLoader with eager torch."""

from pathlib import Path

from benchmarks.batch import bound_of, opening_of, rate_of, ways_of
from benchmarks.gpu.networks import artifacts, checkpoint, photographs, precisions_for
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Budget, Report

COLUMNS = ("network", "precision", "way", "images/s", "of the bound", "convscope is")
_PHOTOGRAPHS = 512  # different ones
_COPIES, _QUICK_COPIES = 32, 1  # of each, as links: a job's own start takes seconds
_WAY_S = 25.0  # estimated
_JOB = "convscope batch"


def run(report: Report, budget: Budget, options: Options) -> None:
    """Runs jobs of ResNet-18 and -50 in the served precision."""
    precision = precisions_for(options)[-1]
    networks = ("resnet18",) if options.quick else ("resnet18", "resnet50")
    made = artifacts(networks, options.work, precisions_for(options))
    source = _folder(options)
    count = sum(1 for _ in source.iterdir())
    report.section(f"Batch jobs on {options.device}: {count:,} JPEG files of 640x480", COLUMNS)
    for network, why in made.failed.items():
        report.error(network, error=why)
    rates: dict[str, float] = {}  # of decoding, which is measured once; of the others, for the network in hand
    for network, artifact in made.made.items():
        opening = opening_of(artifact, precision, options.device)
        weights = checkpoint(network, options.work / "checkpoints")
        for name, way in ways_of(opening, source, weights, peers=True, ray=False).items():
            if (name == "decoding alone" and name in rates) or not options.includes(f"{network}, {name}"):
                continue
            if not budget.enough(_WAY_S):
                report.skipped(f"{network}, {name}", budget)
                continue
            try:
                rates[name] = rate = rate_of(way)
            except Exception as error:  # a peer may raise anything; the rest is still measured
                report.error(network, precision, name, error=error)
                continue
            report.row(network, precision, name, rate, *_compared(name, rates, options))
        rates = {name: rate for name, rate in rates.items() if name == "decoding alone"}


def _compared(name: str, rates: dict[str, float], options: Options) -> tuple[str, str]:
    if name.endswith("alone") or {_JOB, "decoding alone", "engine alone"} - set(rates):
        return "", ""
    bound = bound_of(rates, options.device)
    return f"{rates[name] / bound:.0%}", "" if name == _JOB else f"{rates[_JOB] / rates[name]:.2f}x"


def _folder(options: Options) -> Path:
    folder = options.work / "photographs"
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(photographs(_PHOTOGRAPHS, seed=3)):
        first = folder / f"{number:04}-00.jpg"
        first.write_bytes(file)
        for copy in range(1, _QUICK_COPIES if options.quick else _COPIES):
            link = folder / f"{number:04}-{copy:02}.jpg"
            if not link.exists():  # from an earlier run
                link.hardlink_to(first)
    return folder
