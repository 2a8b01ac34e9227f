"""Charts as SVG elements, coloured by the page's style."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

_WIDTH, _HEIGHT, _LEFT, _BELOW, _TOP = 520, 240, 44, 34, 10


def histogram(edges: Sequence[float], counts: Sequence[int], *, title: str, across: str) -> Markup:
    """Bars between edges in [0, 1], with the largest count beside the axis."""
    most = max(*counts, 1)
    parts = [_frame(title, f"{most:,}", "0", across)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        top, width = _y(count / most), _x(high) - _x(low) - 2
        parts.append(
            Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                _x(low) + 1, top, width, _y(0) - top
            )
        )
    return Markup("").join([*parts, Markup("</svg>")])


def reliability(bins: Sequence[dict[str, Any]], *, title: str) -> Markup:
    """Accuracy by confidence, as bars, and the line where both are equal."""
    parts = [_frame(title, "100 %", "0", "confidence")]
    for one in bins:
        if one["count"]:
            top = _y(one["accuracy"])
            parts.append(
                Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    _x(one["low"]) + 1, top, _x(one["high"]) - _x(one["low"]) - 2, max(1.0, _y(0) - top)
                )
            )
            parts.append(
                Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(_x(one["confidence"]), top)
            )
    line = Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    parts.append(line.format(_x(0), _y(0), _x(1), _y(1)))
    return Markup("").join([*parts, Markup("</svg>")])


def _frame(title: str, top: str, bottom: str, across: str) -> Markup:
    """The beginning of a chart: its axes and their labels."""
    text = Markup('<text x="{:.0f}" y="{:.0f}" text-anchor="{}">{}</text>')
    ticks = [text.format(_x(share), _y(0) + 15, "middle", f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    axis = Markup('<path class="axis" d="M{:.0f} {:.0f}V{:.0f}H{:.0f}"/>').format(_x(0), _y(1), _y(0), _x(1))
    return Markup("").join(
        [
            Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(_WIDTH, _HEIGHT, title),
            axis,
            text.format(_LEFT - 6, _y(1) + 9, "end", top),
            text.format(_LEFT - 6, _y(0), "end", bottom),
            *ticks,
            text.format(_x(0.5), _HEIGHT - 4, "middle", across),
        ]
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - 24)


def _y(share: float) -> float:
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BELOW)
