"""Curves of runs as a picture for print, by matplotlib (the extra `plot`)."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owt_mpi.seeing.chart import Line
from owt_mpi.seeing.curves import (
    LOSS,
    RATES,
    SPEED,
    TOP1,
    TOP5,
    Part,
    lines_of,
    spans_decades,
    steps_or_images,
    time_of_training,
)
from owt_mpi.seeing.palette import ON_WHITE
from owt_mpi.seeing.run_folder import Run
from owt_mpi.seeing.scales import thinned

_INCHES_WIDE, _INCHES_HIGH = 8.0, 3.3  # of one quantity
_MOST_POINTS, _MOST_MARKS = 1000, 40
# text stays text, and the names of runs are no mathematics
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 11, "text.parse_math": False}


@dataclass(frozen=True)
class Quantity:
    """What can be drawn: a title with the unit, and the curves of a run."""

    title: str
    parts: tuple[Part, ...]
    is_share: bool = False
    may_be_log: bool = False


QUANTITIES = {
    "loss": Quantity("loss", LOSS),
    "top1": Quantity("top-1", TOP1, is_share=True),
    "top5": Quantity("top-5", TOP5, is_share=True),
    "lr": Quantity("learning rate", RATES, may_be_log=True),
    "speed": Quantity("images/s", SPEED),
}


def check_installed() -> None:
    """Raise ValueError, with the way out, where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'owt_mpi[plot]'; python -m owt_mpi.report needs none")


def draw(runs: Sequence[Run], names: Sequence[str], over_time: bool, file: Path) -> None:
    """Write the quantities `names`, one below the other, to `file`, whose ending says the format.

    ValueError if the runs have nothing of any of them.
    """
    import matplotlib
    from matplotlib.figure import Figure

    x, x_label = time_of_training(runs) if over_time else steps_or_images(runs)
    found = {name: lines_of(runs, QUANTITIES[name].parts, x) for name in names}
    if not any(line.points for lines in found.values() for line in lines):
        raise ValueError(f"nothing is recorded yet of {', '.join(names)} in {', '.join(run.name for run in runs)}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_INCHES_WIDE, _INCHES_HIGH * len(names)), layout="constrained")
        all_axes = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, (name, lines) in zip(all_axes, found.items(), strict=True):
            _draw(axes, QUANTITIES[name], [line for line in lines if line.points])
        all_axes[-1].set_xlabel(x_label)
        figure.align_ylabels()
        figure.savefig(file, dpi=150)


def _draw(axes: Any, quantity: Quantity, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import PercentFormatter

    for line in lines:
        curve, colour = thinned(line.points, _MOST_POINTS), ON_WHITE[line.colour % len(ON_WHITE)]
        xs, ys = zip(*curve.points, strict=True)
        marker = "o" if line.second and len(xs) <= _MOST_MARKS else ""
        style = "--" if line.second else "-"
        axes.plot(
            xs, ys, style, color=colour, marker=marker, markersize=4, linewidth=1.8, label=f" {line.name}"
        )  # _ first would hide it
        if curve.is_thinned:
            axes.fill_between(xs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylabel(quantity.title)
    if quantity.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if quantity.may_be_log and spans_decades([y for line in lines for _, y in line.points]):
        axes.set_yscale("log")
    axes.grid(color="#d5dae0", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(frameon=False, fontsize=10)
