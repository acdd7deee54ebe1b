"""How runs learn: loss and accuracies, learning rates by part, and speed, over steps and over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from owt_mpi.seeing.chart import Line, line_chart
from owt_mpi.seeing.html import h
from owt_mpi.seeing.metrics_file import Point
from owt_mpi.seeing.run_folder import Run
from owt_mpi.seeing.scales import XY
from owt_mpi.seeing.section import Section, absent

X = Callable[[Run, Point], float]  # where a record lies along a curve


@dataclass(frozen=True)
class Part:
    """A curve of every run: what it is called, its records, and the number in each."""

    name: str
    points: Callable[[Run], Sequence[Point]]
    number: str


def _train(run: Run) -> Sequence[Point]:
    return run.metrics.train


def _validation(run: Run) -> Sequence[Point]:
    return run.metrics.validation


def _both(number: str) -> tuple[Part, Part]:
    return Part("training", _train, number), Part("validation", _validation, number)


LOSS, TOP1, TOP5 = _both("loss"), _both("top1"), _both("top5")
RATES = (Part("trunk", _train, "trunk_lr"), Part("head", _train, "head_lr"))
SPEED = (Part("images/s", _train, "images_per_second"),)


def curves(runs: Sequence[Run]) -> Section:
    """Return the charts of loss, accuracies, rates and speed."""
    x, x_label = steps_or_images(runs)
    time, time_label = time_of_training(runs)
    rates = [y for line in lines_of(runs, RATES, x) for _, y in line.points]
    charts = [
        line_chart("Loss", lines_of(runs, LOSS, x), x_label),
        line_chart("Top-1", lines_of(runs, TOP1, x), x_label, shares=True),
        line_chart("Top-5", lines_of(runs, TOP5, x), x_label, shares=True),
        line_chart("Loss over time", lines_of(runs, LOSS, time), time_label),
        line_chart("Learning rates by part", lines_of(runs, RATES, x), x_label, log=spans_decades(rates)),
        line_chart("Speed", lines_of(runs, SPEED, x), x_label, "images/s", from_zero=True),
    ]
    return Section("curves", "Learning", [*absent(runs, "metrics"), grid(charts)])


def lines_of(runs: Sequence[Run], parts: Sequence[Part], x: X) -> list[Line]:
    """Return a line for each part of each run: of several runs each has its colour, of a single one each part."""
    lines = []
    for number, run in enumerate(runs):
        for place, part in enumerate(parts):
            found = [point for point in part.points(run) if part.number in point.numbers]
            points: list[XY] = [(x(run, point), point.numbers[part.number]) for point in found]
            is_second = len(parts) == 2 and place == 1
            if len(runs) == 1:
                lines.append(Line(part.name, points, place, is_second))
            else:
                name = run.name if len(parts) == 1 else f"{run.name}, {part.name}"
                lines.append(Line(name, points, number, is_second))
    return lines


def steps_or_images(runs: Sequence[Run]) -> tuple[X, str]:
    """Return what curves are drawn over, and its name: steps, or images where a step of all runs has not as many."""
    batches = {run.global_batch for run in runs}
    if len(batches) == 1 or None in batches:
        return (lambda run, point: point.step), "step"
    most = max(run.metrics.last_step * (run.global_batch or 0) for run in runs)
    unit, name = (1e6, "million images") if most > 2e6 else (1.0, "images")
    return (lambda run, point: point.step * (run.global_batch or 0) / unit), name


def grid(charts: Sequence[Element]) -> Element:
    """Return charts side by side, as many as there is room for."""
    return h("div", charts, class_="charts")


def time_of_training(runs: Sequence[Run]) -> tuple[X, str]:
    """Return what curves are drawn over where they are over time, and its name, with a unit that fits."""
    seconds = max((run.metrics.seconds for run in runs), default=0.0)
    unit, name = (3600.0, "hours") if seconds > 2 * 3600 else (60.0, "minutes") if seconds > 120 else (1.0, "seconds")
    return (lambda run, point: point.seconds / unit), f"{name} of training"


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether values are better seen on a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 20
