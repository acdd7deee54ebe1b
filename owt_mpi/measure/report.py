"""What was measured, as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from owt_mpi.backends.precision import Precision
from owt_mpi.measure.conformance import ConformanceRow
from owt_mpi.measure.convolutions import ConvolutionRow
from owt_mpi.measure.schemes import SchemeRow
from owt_mpi.measure.step import PartRow, StepRow
from owt_mpi.tables import Table, milliseconds, rate, render, share


@dataclass
class Report:
    """Facts about machine and case, the rows of each part that was measured, and remarks on what was not."""

    facts: dict[str, str]
    conformance: list[ConformanceRow] = field(default_factory=list)
    convolutions: list[ConvolutionRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    parts: list[PartRow] = field(default_factory=list)
    schemes: list[SchemeRow] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str) -> None:
        """Add a remark, once however often it is made."""
        if text not in self.remarks:
            self.remarks.append(text)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return asdict(self)

    def text(self, markdown: bool) -> str:
        """Return the facts and the tables, for a terminal or as a section of docs/gpu-results.md."""
        bullet = "- " if markdown else ""
        facts = [f"{bullet}{name}: {fact}" for name, fact in self.facts.items()]
        remarks = [f"{bullet}{remark}" for remark in self.remarks]
        head = [f"## {self.facts['device']}", ""] if markdown else []
        tables = [render(table, markdown) for table in self.tables()]
        return "\n".join([*head, *facts, *remarks, "", *tables]).rstrip() + "\n"

    def tables(self) -> list[Table]:
        """Return a table for each part that has rows."""
        made = (
            (self.conformance, self._conformance),
            (self.convolutions, self._convolutions),
            (self.steps, self._steps),
            (self.parts, self._parts),
            (self.schemes, self._schemes),
        )
        return [table for rows, make in made if rows for table in make()]

    def _conformance(self) -> list[Table]:
        lines = [
            [
                row.operation,
                row.shapes,
                row.precision,
                f"{row.error:.1e}",
                f"{row.tolerance:.0e}",
                "yes" if row.passes else "NO",
            ]
            for row in self.conformance
        ]
        return [Table("Conformance", ("operation", "shapes", "precision", "error", "tolerance", "passes"), lines)]

    def _convolutions(self) -> list[Table]:
        ways = list(self.convolutions[0].seconds)
        lines = []
        for row in self.convolutions:
            cells = [f"{row.layer} {row.operation}", row.precision]
            cells += [f"{row.flop / 1e9:.3f}", f"{row.least_bytes / 1e6:.3f}"]
            for way in ways:
                seconds = row.seconds[way]
                cells += [milliseconds(seconds), rate(row.flop, seconds), share(row.roof_seconds, seconds)]
            lines.append(cells)
        columns = [f"{way} {what}" for way in ways for what in ("ms", "GFLOP/s", "of the roof")]
        return [Table("Convolutions", ("convolution", "precision", "GFLOP", "least MB", *columns), lines)]

    def _steps(self) -> list[Table]:
        lines = [
            [
                row.what,
                row.precision,
                f"{milliseconds(row.seconds)} ({milliseconds(row.fastest)}-{milliseconds(row.slowest)})",
                f"{row.images / row.seconds:.1f}",
                rate(row.flop, row.seconds),
                rate(row.least_bytes, row.seconds),
                share(row.roof_seconds, row.seconds),
            ]
            for row in self.steps
        ]
        headings = ("step", "precision", "ms (fastest-slowest)", "images/s", "GFLOP/s", "GB/s", "of the roof")
        return [Table("Training step, one rank", headings, lines)]

    def _parts(self) -> list[Table]:
        precisions = dict.fromkeys(row.precision for row in self.parts)
        return [_part_table(precision, [r for r in self.parts if r.precision == precision]) for precision in precisions]

    def _schemes(self) -> list[Table]:
        base = {(row.ranks, row.precision): row.seconds for row in self.schemes if row.scheme == "dp"}
        lines = [
            [
                str(row.ranks),
                row.scheme,
                row.precision,
                f"{milliseconds(row.seconds)} ({milliseconds(row.fastest)}-{milliseconds(row.slowest)})",
                f"{row.seconds / base[row.ranks, row.precision]:.2f}" if base[row.ranks, row.precision] else "",
                f"{row.ranks * row.images_per_rank / row.seconds:.1f}",
                f"{row.received_bytes / 1e6:.3f}",
                milliseconds(row.exchange_seconds),
                milliseconds(row.exchange_seconds - row.exposed_seconds),
                milliseconds(row.exposed_seconds),
            ]
            for row in self.schemes
            if not row.why_not
        ]
        headings = (
            "K", "scheme", "precision", "ms a step (fastest-slowest)", "/ dp's", "images/s", "MB received",
            "exchange ms", "hidden ms", "exposed ms",
        )  # fmt: skip
        notes = dict.fromkeys(f"{row.ranks} ranks: {row.why_not}" for row in self.schemes if row.why_not)
        return [Table("Training step by scheme", headings, lines, list(notes))]


def _part_table(precision: Precision, rows: Sequence[PartRow]) -> Table:
    """Return the table of a step in one precision."""
    whole = sum(row.seconds for row in rows)
    lines = [
        [
            f"{row.layer} {row.operation}".strip(),
            str(row.calls or ""),
            milliseconds(row.seconds),
            share(row.seconds, whole),
            "" if row.flop is None else f"{row.flop / 1e9:.3f}",
            "" if row.least_bytes is None else f"{row.least_bytes / 1e6:.3f}",
            rate(row.flop, row.seconds),
            rate(row.least_bytes, row.seconds),
            share(row.roof_seconds, row.seconds),
        ]
        for row in rows
    ]
    headings = (
        "part", "calls", "ms", "share", "GFLOP", "least MB", "GFLOP/s", "GB/s", "of the roof",
    )  # fmt: skip
    return Table(f"Training step by part in {precision}, each waited for", headings, lines)
