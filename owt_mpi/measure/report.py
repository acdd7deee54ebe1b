"""What was measured, as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from owt_mpi.measure.conformance import ConformanceRow
from owt_mpi.measure.convolutions import ConvolutionRow
from owt_mpi.measure.schemes import SchemeRow
from owt_mpi.measure.step import PartRow, StepRow
from owt_mpi.tables import Table, milliseconds, rate, render, share


@dataclass
class Report:
    """Facts about machine and case, the rows of each part that was measured, and remarks on what was not."""

    facts: dict[str, str]
    conformance: Sequence[ConformanceRow] = ()
    convolutions: Sequence[ConvolutionRow] = ()
    steps: Sequence[StepRow] = ()
    parts: Sequence[PartRow] = ()
    schemes: list[SchemeRow] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

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
        return [table() for rows, table in made if rows]

    def _conformance(self) -> Table:
        lines = [
            [row.operation, row.shapes, f"{row.error:.1e}", f"{row.tolerance:.0e}", "yes" if row.passes else "NO"]
            for row in self.conformance
        ]
        return Table("Conformance", ("operation", "shapes", "error", "tolerance", "passes"), lines)

    def _convolutions(self) -> Table:
        ways = list(self.convolutions[0].seconds)
        lines = []
        for row in self.convolutions:
            cells = [f"{row.layer} {row.operation}", f"{row.flop / 1e9:.3f}", f"{row.least_bytes / 1e6:.3f}"]
            for way in ways:
                seconds = row.seconds[way]
                cells += [milliseconds(seconds), rate(row.flop, seconds), share(row.roof_seconds, seconds)]
            lines.append(cells)
        columns = [f"{way} {what}" for way in ways for what in ("ms", "GFLOP/s", "of the roof")]
        return Table("Convolutions", ("convolution", "GFLOP", "least MB", *columns), lines)

    def _steps(self) -> Table:
        lines = [
            [
                row.what,
                f"{milliseconds(row.seconds)} ({milliseconds(row.fastest)}-{milliseconds(row.slowest)})",
                f"{row.images / row.seconds:.1f}",
                rate(row.flop, row.seconds),
                rate(row.least_bytes, row.seconds),
                share(row.roof_seconds, row.seconds),
            ]
            for row in self.steps
        ]
        headings = ("step", "ms (fastest-slowest)", "images/s", "GFLOP/s", "GB/s", "of the roof")
        return Table("Training step, one rank", headings, lines)

    def _parts(self) -> Table:
        whole = sum(row.seconds for row in self.parts)
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
            for row in self.parts
        ]
        headings = (
            "part", "calls", "ms", "share", "GFLOP", "least MB", "GFLOP/s", "GB/s", "of the roof",
        )  # fmt: skip
        return Table("Training step by part, each waited for", headings, lines)

    def _schemes(self) -> Table:
        base = {row.ranks: row.seconds for row in self.schemes if row.scheme == "dp"}
        lines = [
            [
                str(row.ranks),
                row.scheme,
                f"{milliseconds(row.seconds)} ({milliseconds(row.fastest)}-{milliseconds(row.slowest)})",
                f"{row.seconds / base[row.ranks]:.2f}" if base[row.ranks] else "",
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
            "K", "scheme", "ms a step (fastest-slowest)", "/ dp's", "images/s", "MB received", "exchange ms",
            "hidden ms", "exposed ms",
        )  # fmt: skip
        notes = [f"{row.ranks} ranks: {row.why_not}" for row in self.schemes if row.why_not]
        return Table("Training step by scheme", headings, lines, notes)
