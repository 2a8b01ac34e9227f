"""The console and the tables of every command: plain text, in which no number is cut."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNLIMITED = 10_000  # columns; rich needs some width to measure with


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets and colons in names are no markup, and lines are not broken."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=stderr)


def make_table(*headings: str, title: str = "", left: Sequence[str] = (), compact: bool = False) -> Table:
    """A table for `print_table`, with its numbers aligned to the right.

    Args:
        left: the headings of columns of text.
        compact: without lines between columns.
    """
    table = Table(title=title or None)
    if compact:
        table.box, table.padding = SIMPLE, (0, 0, 0, 0)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    return table


def print_table(console: Console, table: Table) -> None:
    """Prints a table with whole cells, its title above and its caption below on a line each.

    A table that is too wide becomes compact. If it is still too wide, its lines are longer than the console: a cell
    that is folded or cut, as rich would do it, reads as another number.
    """
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    if title:
        console.print(title, style="table.title")
    before = console.width
    if _width(console, table) > before:
        table.box, table.padding = SIMPLE, (0, 0, 0, 0)
    try:
        console.width = max(before, _width(console, table))
        console.print(table, soft_wrap=False)
    finally:
        console.width = before
    if caption:
        console.print(caption, style="table.caption")


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum
