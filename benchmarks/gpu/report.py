"""Results as they arrive: printed row by row, and in files that are complete after every row."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.host import describe_host

MARKDOWN_FILE, JSON_FILE = "gpu.md", "gpu.json"
Cell = str | int | float | None


@dataclass
class Section:
    """A table and the remarks on it; each row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Budget:
    """A time budget that starts now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Remaining seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def enough(self, seconds: float) -> bool:
        """True if at least this many seconds remain."""
        return self.left_s >= seconds

    def part(self, share: float) -> "Budget":
        """A share, in (0, 1], of the remaining time; unspent time stays in this budget."""
        return Budget(self.left_s * share)


class Report:
    """Prints Markdown and keeps `gpu.md` and `gpu.json` in a folder up to date.

    Args:
        out: the folder; nothing is written if None.
        device: of the measurements, for the description of the machine.
    """

    def __init__(self, out: Path | None, device: str = "cpu") -> None:
        self._out = out
        self.machine = describe_host(device)
        self.sections: list[Section] = []
        print(_machine_lines(self.machine), flush=True)
        self._write()

    def section(self, title: str, columns: tuple[str, ...] | list[str]) -> None:
        """Begins a table; later `row` and `note` calls add to it."""
        section = Section(title, tuple(columns))
        self.sections.append(section)
        print(f"\n## {title}\n\n{_line(section.columns)}\n{_rule(section)}", flush=True)
        self._write()

    def row(self, *cells: Cell) -> None:
        """Adds a row; numbers are rounded for display, and missing cells are empty.

        Raises:
            ValueError: more cells than columns.
        """
        section = self.sections[-1]
        if len(cells) > len(section.columns):
            raise ValueError(f"{len(cells)} cells; {section.title!r} has {len(section.columns)} columns")
        section.rows.append((*cells, *[None] * (len(section.columns) - len(cells))))
        print(_line(section.rows[-1]), flush=True)
        self._write()

    def error(self, *cells: Cell, error: BaseException | str) -> None:
        """Adds a row for a failure: its name, and in the next cell the last line of the error."""
        self.row(*cells, f"failed: {last_line(error)}")

    def note(self, text: str) -> None:
        """Adds a remark under the current table; before the first table, under the machine."""
        if not self.sections:
            self.sections.append(Section("Remarks", ()))
        self.sections[-1].notes.append(text)
        print(f"\n{text}\n", flush=True)
        self._write()

    def skipped(self, what: str, budget: Budget) -> None:
        """Notes that `what` is skipped because too little time is left."""
        self.note(f"skipped: {what}: {budget.left_s:.0f} s left")

    def markdown(self) -> str:
        """The report so far."""
        parts = [_machine_lines(self.machine)]
        for section in self.sections:
            rows = [_line(section.columns), _rule(section), *map(_line, section.rows)] if section.columns else []
            notes = [f"\n{note}" for note in section.notes]
            parts.append("\n".join([f"\n## {section.title}\n", *rows, *notes]))
        return "\n".join(parts) + "\n"

    def _write(self) -> None:
        if self._out is None:
            return
        self._out.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.machine, "sections": [asdict(section) for section in self.sections]}
        for name, text in ((MARKDOWN_FILE, self.markdown()), (JSON_FILE, json.dumps(content, indent=1) + "\n")):
            temporary = self._out / f"{name}.part"
            temporary.write_text(text)
            temporary.replace(self._out / name)


def last_line(error: BaseException | str, *, limit: int = 300) -> str:
    """The last non-empty line of an error or a log, with the type for an exception."""
    name = "" if isinstance(error, str) else f"{type(error).__name__}: "
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{name}{lines[-1]}"[:limit]


def shown(cell: Cell) -> str:
    """A cell as Markdown."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|").replace("\n", " ")


def _line(cells: tuple[Cell, ...]) -> str:
    return f"| {' | '.join(map(shown, cells))} |"


def _rule(section: Section) -> str:
    return f"|{'|'.join(' --- ' for _ in section.columns)}|"


def _machine_lines(machine: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in machine.items())
