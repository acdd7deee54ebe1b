"""What the layers of runs make of a batch, and how far their weights move: by layer, and as it went."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from owt_mpi.seeing.chart import Line, line_chart, sparkline
from owt_mpi.seeing.curves import grid
from owt_mpi.seeing.html import h
from owt_mpi.seeing.metrics_file import LayerPoint
from owt_mpi.seeing.run_folder import Run
from owt_mpi.seeing.scales import percent, written
from owt_mpi.seeing.section import Section, absent, named

Values = Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A number of each layer: its title, where it is found, and how it is drawn and written."""

    title: str
    of: Callable[[LayerPoint], Values]
    write: Callable[[float], str] = written
    log: bool = False
    shares: bool = False


def _output(which: str) -> Callable[[LayerPoint], Values]:
    return lambda point: {name: each[which] for name, each in point.outputs.items() if which in each}


def _weight_updates(point: LayerPoint) -> Values:
    """Return the updates of weights by layer: biases, which begin at 0, move far for their size."""
    return {name.removesuffix(".weight"): ratio for name, ratio in point.updates.items() if name.endswith(".weight")}


MEAN = Column("Mean of the outputs", _output("mean"))
STD = Column("Standard deviation of the outputs", _output("std"), log=True)
ZEROS = Column("Zeros among the outputs", _output("zeros"), percent, shares=True)
UPDATE = Column("Update relative to the weights", _weight_updates, log=True)


def layers(runs: Sequence[Run]) -> Section:
    """Return charts over the layers, newest figures, and a table for each run with the course of each figure."""
    known = [run for run in runs if run.metrics.layers]
    body = absent(runs, "metrics")
    body += [
        h("p", f"{run.name}: nothing recorded yet; --layer-stats-every says how often layers are looked at",
          class_="absent")
        for run in runs if not run.metrics.layers
    ]  # fmt: skip
    if known:
        body.append(h("p", _explained(runs), class_="note"))
        body.append(grid([_by_layer(runs, column) for column in (STD, ZEROS, UPDATE)]))
        tables = [h("div", named(runs, number), _table(run, number), class_="run") for number, run in enumerate(runs)]
        body.append(h("details", h("summary", "every layer, and its course"), tables))
    return Section("layers", "Layers", body, [_content(run) for run in runs])


def _explained(runs: Sequence[Run]) -> str:
    steps = ", ".join(
        f"{run.name + ' ' if len(runs) > 1 else ''}after step {run.metrics.layers[-1].step:,}"
        for run in runs
        if run.metrics.layers
    )
    first = ", dashed as they were first" if len(runs) == 1 and len(runs[0].metrics.layers) > 1 else ""
    return (
        f"Outputs are those of a training batch, {steps}{first}. The update is the last one: its root mean square by "
        "that of the weights."
    )


def _by_layer(runs: Sequence[Run], column: Column) -> Element:
    names = list(dict.fromkeys(n for run in runs if run.metrics.layers for n in column.of(run.metrics.layers[-1])))
    place = {name: number for number, name in enumerate(names)}

    def line(name: str, point: LayerPoint, colour: int, second: bool = False) -> Line:
        values = {each: value for each, value in column.of(point).items() if each in place}
        if column.log:
            values = {each: value for each, value in values.items() if value > 0}
        return Line(name, [(place[each], value) for each, value in values.items()], colour, second)

    lines = []
    for number, run in enumerate(runs):
        points = run.metrics.layers
        if points:
            newest = f"step {points[-1].step:,}" if len(runs) == 1 else run.name
            lines.append(line(newest, points[-1], number))
        if len(runs) == 1 and len(points) > 1:
            lines.append(line(f"step {points[0].step:,}", points[0], 1, second=True))
    short = [name.removeprefix("trunk.").removeprefix("head.") for name in names]
    return line_chart(column.title, lines, "", log=column.log, shares=column.shares, x_names=short)


def _table(run: Run, number: int) -> Element:
    points = run.metrics.layers
    if not points:
        return h("p", "nothing recorded yet", class_="absent")
    columns = (MEAN, STD, ZEROS, UPDATE)
    newest = [column.of(points[-1]) for column in columns]
    names = list(dict.fromkeys(name for each in newest for name in each))
    headings = [h("th", title, scope="col") for title in ("layer", *(column.title for column in columns))]
    rows = []
    for name in names:
        cells = []
        for column, values in zip(columns, newest, strict=True):
            course = [(point.step, column.of(point)[name]) for point in points if name in column.of(point)]
            shown = column.write(values[name]) if name in values else ""
            cells.append(h("td", shown, sparkline(course, number) if len(course) > 1 else None))
        rows.append(h("tr", h("th", name, scope="row"), cells))
    content = h("table", h("thead", h("tr", headings)), h("tbody", rows), class_="numbers layers")
    return h("div", content, class_="scroll")


def _content(run: Run) -> dict[str, object]:
    points = run.metrics.layers
    newest = points[-1] if points else None
    return {
        "run": run.name,
        "step": newest.step if newest else None,
        "outputs": dict(newest.outputs) if newest else {},
        "updates": dict(newest.updates) if newest else {},
    }
