"""Tables that commands and benchmarks print, aligned for a terminal or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from owt_mpi.input_file import printable


@dataclass(frozen=True)
class Table:
    """A title, a line of headings, lines of cells, and sentences below."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def render(table: Table, markdown: bool) -> str:
    """Return the table as text that ends in a newline; what cannot be printed in a cell is escaped."""
    lines = [list(table.headings), *([printable(cell) for cell in line] for line in table.lines)]
    assert all(len(line) == len(table.headings) for line in lines), table
    if markdown:
        rows = [f"| {' | '.join(line)} |" for line in lines]
        body = [rows[0], "|" + "---|" * len(table.headings), *rows[1:]]
        notes = [line for note in table.notes for line in ("", note)]
        return "\n".join([f"### {table.title}", "", *body, *notes]) + "\n"
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.headings))]
    body = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in each).rstrip()
        for each in (enumerate(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([table.title, *(f"  {line}" for line in body), *(f"  {note}" for note in table.notes)]) + "\n"


def milliseconds(seconds: float) -> str:
    """Return seconds as a cell in milliseconds."""
    return f"{seconds * 1e3:.3f}"


def rate(amount: int | None, seconds: float) -> str:
    """Return amount a second as a cell in 10^9, empty where the amount is not known or no time passed."""
    return f"{amount / seconds / 1e9:.1f}" if amount and seconds else ""


def share(part: float | None, whole: float) -> str:
    """Return part / whole as a cell in percent, empty where the part is not known or the whole is nothing."""
    return f"{part / whole:.0%}" if part is not None and whole else ""
