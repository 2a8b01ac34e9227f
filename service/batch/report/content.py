"""The numbers of a report: everything that `report.json` has and the page shows."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.batch.entries import shard_of
from service.batch.job import Job
from service.batch.parts import Failed, read_failures
from service.batch.remote.server import Server
from service.batch.statistics import BINS, Statistics, shares

SCHEMA = 1
LEVEL, _Z = 0.95, 1.959963984540054  # of confidence intervals, and the normal distribution's quantile
EXAMPLES = 5  # of each error
_OPTIONS = ("source", "column", "top_k", "logits", "layer", "limit_pixels", "batch_size", "block_rows")


def report_of(job: Job) -> dict[str, Any]:
    """The numbers of a job that ran, as JSON."""
    summary = job.summary
    counted, seconds = summary.statistics, summary.elapsed_s
    known = sum(counted.known) > 0
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": _model(job),
        "output": job.output.name,
        "options": {name: job.description[name] for name in _OPTIONS},
        "rows": counted.rows,
        "rows_now": summary.rows_now,
        "failed": counted.failed,
        "with_notes": counted.notes,
        "elapsed_s": seconds,
        "images_per_s": summary.rows_now / seconds if seconds else 0.0,
        "seconds": dict(vars(summary.seconds)),
        "classes": _classes(counted, job.network.classes),
        "confidence": {"edges": [place / BINS for place in range(BINS + 1)], "counts": counted.confidence},
        "errors": _errors(job),
        "uncertain": [dict(vars(one)) for one in counted.uncertain],
        "accuracy": accuracy_of(sum(counted.right), sum(counted.known)) if known else None,
        "by_class": _by_class(counted, job.network.classes) if known else None,
        "confusion": _confusion(counted) if known else None,
        "calibration": _calibration(counted) if known else None,
        "drift": _drift(counted, job.network.classes, job.network.class_counts),
        "passed_over": dict(summary.remarks.most_common()),
        "damaged_shards": [{"shard": shard_of(name), "reason": reason} for name, reason in summary.problems.items()],
    }


def accuracy_of(right: int, known: int) -> dict[str, Any]:
    """A share of right answers with its interval by Wilson (1927).

    Args:
        right: right answers.
        known: all answers, at least 1.
    """
    share, z2 = right / known, _Z**2
    middle = (share + z2 / (2 * known)) / (1 + z2 / known)
    half = _Z / (1 + z2 / known) * math.sqrt(share * (1 - share) / known + z2 / (4 * known**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": share, "right": right, "known": known, "level": LEVEL, "low": low, "high": high}


def _model(job: Job) -> dict[str, Any]:
    about = {name: job.description[name] for name in ("model", "version", "artifact", "file")}
    network = job.network
    if isinstance(network, Server):
        return {**about, "url": network.address.url, "engine": None, "device": None}
    engine = network.predictor.engine
    return {**about, "url": None, "engine": engine.name, "device": engine.device}


def _classes(counted: Statistics, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by predicted class, the most frequent first, then in the order of the classes."""
    rows = zip(classes, shares(counted.labels, classes), strict=True)
    found = [{"class": name, "count": counted.labels[name], "share": share} for name, share in rows]
    return sorted(found, key=lambda one: -int(str(one["count"])))


def _errors(job: Job) -> list[dict[str, Any]]:
    """Rows with errors by code, with some examples of each."""
    examples: dict[str, list[Failed]] = {code: [] for code in job.summary.statistics.errors}
    for name, record in sorted(job.records.items()):
        if any(len(examples[code]) < EXAMPLES for code in record.statistics.errors):
            for failed in read_failures(job.output.folder.read(job.output.part(name)), job.output.form).values():
                if len(examples[failed.code]) < EXAMPLES:
                    examples[failed.code].append(failed)
    return [
        {
            "code": code,
            "count": count,
            "examples": [{"key": one.key, "message": one.message} for one in examples[code]],
        }
        for code, count in job.summary.statistics.errors.most_common()
    ]


def _by_class(counted: Statistics, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Recall and precision among the rows whose class is known; None where nothing is to be divided by."""
    predicted = dict.fromkeys(classes, 0)
    right = dict.fromkeys(classes, 0)
    for (truth, label), count in counted.confusion.items():
        predicted[label] += count
        right[label] += count if truth == label else 0
    return [
        {
            "class": name,
            "known": counted.truths[name],
            "predicted": predicted[name],
            "right": right[name],
            "recall": right[name] / counted.truths[name] if counted.truths[name] else None,
            "precision": right[name] / predicted[name] if predicted[name] else None,
        }
        for name in classes
    ]


def _confusion(counted: Statistics) -> list[dict[str, Any]]:
    """Pairs of a known and a predicted class that occur, the most frequent first."""
    return [
        {"truth": truth, "label": label, "count": count} for (truth, label), count in counted.confusion.most_common()
    ]


def _calibration(counted: Statistics) -> dict[str, Any]:
    """The reliability diagram's bins, and the expected calibration error (Guo et al. 2017)."""
    bins = [
        {
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "count": known,
            "confidence": summed / known if known else None,
            "accuracy": right / known if known else None,
        }
        for place, (known, summed, right) in enumerate(zip(counted.known, counted.summed, counted.right, strict=True))
    ]
    return {"expected_error": counted.calibration_error, "bins": bins}


def _drift(counted: Statistics, classes: Sequence[str], training: Sequence[int] | None) -> dict[str, Any] | None:
    """Shares of the predicted classes against those of the training images; None if these are not known.

    `distance` is the total variation: the least share of the rows whose class would have to be another one for both
    distributions to be equal.
    """
    if not training or not sum(training) or not counted.labels.total():
        return None
    found = shares(counted.labels, classes)
    trained = [count / sum(training) for count in training]
    rows = [
        {"class": name, "training": was, "now": now, "difference": now - was}
        for name, was, now in zip(classes, trained, found, strict=True)
    ]
    return {"distance": sum(abs(now - was) for now, was in zip(found, trained, strict=True)) / 2, "classes": rows}
