"""Writes a report: `report.json`, or `report.html`, which needs no other file."""

import json
import os
import posixpath
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.errors import UserError
from service.batch.job import Job
from service.batch.report.charts import histogram, reliability
from service.batch.report.content import report_of
from service.batch.report.thumbnails import thumbnails
from service.batch.storage import Folder, is_url

FORMS = (".html", ".json")
LARGEST_MATRIX = 25  # classes of a confusion matrix that is shown as one
ROWS = 1000  # classes that a table shows


def check_name(name: str) -> None:
    """Checks the ending of a report's name.

    Raises:
        UserError: it is neither `.html` nor `.json`.
    """
    if not name.endswith(FORMS):
        raise UserError(f"--report is {name}; it must end in {' or '.join(FORMS)}")


def write_report(name: str, job: Job) -> None:
    """Writes the report of a job that ran, to a path or URL.

    Raises:
        UserError: the name has another ending.
        UnwritableError: the disk is full, for example.
    """
    check_name(name)
    report = report_of(job)
    if name.endswith(".json"):
        content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    else:
        content = page_of(report, thumbnails(job, {one["key"] for one in report["uncertain"]}))
    folder, last = (posixpath if is_url(name) else os.path).split(name)
    Folder(folder or ".").write(last, content.encode("utf-8", "backslashreplace"))


def page_of(report: dict[str, Any], pictures: dict[str, str]) -> str:
    """The page.

    Args:
        report: see `report_of`.
        pictures: `data:` URLs of thumbnails by key.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": lambda value: f"{value:,}", "points": _points}
    edges = report["confidence"]["edges"]
    charts = {
        "confidence": histogram(
            edges,
            report["confidence"]["counts"],
            title="Rows by the probability of their class",
            across="probability of the predicted class",
        )
    }
    if report["calibration"]:
        bins = report["calibration"]["bins"]
        charts["reliability"] = reliability(bins, title="Accuracy by confidence; the line is where both are equal")
    page = environment.get_template("report.html.jinja")
    return page.render(r=report, pictures=pictures, charts=charts, matrix=_matrix(report), limit=ROWS)


def _matrix(report: dict[str, Any]) -> dict[str, Any] | None:
    """The confusion matrix, if there are few enough classes; shares are of the known class."""
    if not report["by_class"]:
        return None
    counts = {(one["truth"], one["label"]): one["count"] for one in report["confusion"]}
    names = [one["class"] for one in report["by_class"] if one["known"] or one["predicted"]]
    if len(names) > LARGEST_MATRIX:
        return None
    known = {one["class"]: one["known"] for one in report["by_class"]}
    rows = [
        {
            "class": truth,
            "cells": [
                {"count": (count := counts.get((truth, label), 0)), "share": count / max(1, known[truth])}
                for label in names
            ],
        }
        for truth in names
    ]
    return {"names": names, "rows": rows}


def _percent(share: float | None) -> str:
    return "\u2013" if share is None else f"{share:.1%}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
