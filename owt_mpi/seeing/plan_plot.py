"""A plan as a picture, by matplotlib (the extra `plot`): bars for one number of ranks, lines for several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owt_mpi.planner.choice import PlanRow, family_of
from owt_mpi.seeing.palette import ON_WHITE
from owt_mpi.seeing.plotting import STYLE

_INCHES_WIDE, _INCHES_HIGH, _INCHES_A_BAR = 8.0, 4.0, 0.28


def draw_plan(rows: Sequence[PlanRow], title: str, file: Path) -> None:
    """Write the picture to `file`, whose ending says the format."""
    import matplotlib
    from matplotlib.figure import Figure

    several = len({row.ranks for row in rows}) > 1
    height = _INCHES_HIGH if several else 1.3 + _INCHES_A_BAR * len(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_INCHES_WIDE, height), layout="constrained")
        axes = figure.subplots()
        (_lines if several else _bars)(axes, rows)
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=10)
        figure.savefig(file, dpi=150)


def _bars(axes: Any, rows: Sequence[PlanRow]) -> None:
    """Draw each scheme's step: what is computed, and what of the exchange is exposed."""
    names = ["dp" if row.group_size == 1 else f"{row.scheme}, G = {row.group_size}" for row in rows]
    computing = [row.compute_seconds * 1e3 for row in rows]
    axes.barh(names, computing, color=ON_WHITE[0], label="computing")
    axes.barh(names, [row.exposed_seconds * 1e3 for row in rows], left=computing, color=ON_WHITE[1], label="exposed")
    axes.invert_yaxis()
    axes.set_xlabel("ms a step")
    axes.grid(axis="x", color="#d5dae0", linewidth=0.8)
    axes.set_axisbelow(True)


def _lines(axes: Any, rows: Sequence[PlanRow]) -> None:
    """Draw the efficiency of the best of each way to spread the head over the number of ranks."""
    for number, family in enumerate(dict.fromkeys(family_of(row) for row in rows)):
        best: dict[int, float] = {}
        for row in rows:
            if family_of(row) == family and row.fits:
                best[row.ranks] = max(best.get(row.ranks, 0.0), row.efficiency)
        axes.plot(list(best), list(best.values()), "o-", color=ON_WHITE[number], markersize=4, label=family)
    ranks = sorted({row.ranks for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(each) for each in ranks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.05 * max(1.0, *(row.efficiency for row in rows)))
    axes.set_xlabel("ranks (K)")
    axes.set_ylabel("efficiency beside one rank")
    axes.grid(color="#d5dae0", linewidth=0.8)
