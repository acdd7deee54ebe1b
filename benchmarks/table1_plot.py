"""The picture of the benchmark table1: error over K with its spread, and the dial between the two batches."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.table1_cases import RULE_NAMES, RULES
from benchmarks.table1_claims import Row
from owt_mpi.seeing.palette import ON_WHITE
from owt_mpi.seeing.plotting import STYLE


def draw(rows: Sequence[Row], file: Path) -> None:
    """Write top-1 error over K, and at the largest K over the passes between updates of the head, to `file`."""
    import matplotlib
    from matplotlib.figure import Figure

    most = max(row.ranks for row in rows)
    dial = [row for row in rows if row.ranks == most and row.rule == "linear"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        over_ranks, over_passes = figure.subplots(1, 2, sharey=True)
        curves = [(rule, is_fixed) for rule in RULES for is_fixed in (True, False)]
        for colour, (rule, is_fixed) in zip(ON_WHITE, curves, strict=False):
            curve = [row for row in rows if row.ranks == 1 or (row.rule, row.passes) == _point(row, rule, is_fixed)]
            name = f"{'(Kn, Kn)' if is_fixed else '(Kn, n)'}, {RULE_NAMES[rule]}"
            _errors(over_ranks, [row.ranks for row in curve], curve, colour, name)
        _errors(over_passes, [row.passes for row in dial], dial, ON_WHITE[4], f"K = {most}, k")
        over_ranks.set_xlabel("GPUs (K)")
        over_ranks.set_ylabel("top-1 error, %")
        over_passes.set_xlabel("passes between updates of the head")
        for axes in (over_ranks, over_passes):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.grid(color="#d5dae0", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=9)
        figure.savefig(file, dpi=150)


def _point(row: Row, rule: str, is_fixed: bool) -> tuple[str, int]:
    return rule, row.ranks if is_fixed else 1


def _errors(axes: Any, xs: Sequence[int], rows: Sequence[Row], colour: str, name: str) -> None:
    if not rows:
        return
    points = sorted(zip(xs, rows, strict=True), key=lambda point: point[0])
    axes.errorbar(
        [x for x, _ in points],
        [100 * fmean(row.top1_error) for _, row in points],
        [100 * stdev(row.top1_error) if len(row.top1_error) > 1 else 0 for _, row in points],
        color=colour, marker="o", markersize=4, linewidth=1.6, capsize=3, label=name,
    )  # fmt: skip
