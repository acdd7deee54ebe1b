"""What the layers of runs make of a batch, and how far their weights move: by layer, and as it went."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from owt_mpi.seeing.chart import Line, line_chart, sparkline
from owt_mpi.seeing.curves import grid
from owt_mpi.seeing.html import h
from owt_mpi.seeing.metrics_file import LayerPoint
from owt_mpi.seeing.run_folder import Run
from owt_mpi.seeing.scales import XY, percent, written
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
    body = absent(runs, "metrics")
    body += [
        h("p", f"{run.name}: nothing recorded yet; --layer-stats-every says how often layers are looked at",
          class_="absent")
        for run in runs if not run.metrics.layers
    ]  # fmt: skip
    networks = _networks(runs)
    if networks:
        body.append(h("p", _explained(runs), class_="note"))
    for numbers in networks:
        if len(networks) > 1:
            body.append(h("h3", ", ".join(runs[number].name for number in numbers), class_="run"))
        body.append(grid([_by_layer(runs, numbers, column) for column in (STD, ZEROS, UPDATE)]))
    if networks:
        tables = [h("div", named(runs, number), _table(run, number), class_="run") for number, run in enumerate(runs)]
        body.append(h("details", h("summary", "every layer, and its course"), tables))
    return Section("layers", "Layers", body, [_content(run) for run in runs])


def _networks(runs: Sequence[Run]) -> list[list[int]]:
    """Return the numbers of the runs that something is known of, those together that have the same layers."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, run in enumerate(runs):
        if run.metrics.layers:
            found.setdefault(tuple(run.metrics.layers[-1].outputs), []).append(number)
    return list(found.values())


def _explained(runs: Sequence[Run]) -> str:
    steps = ", ".join(
        f"{run.name + ' ' if len(runs) > 1 else ''}after step {run.metrics.layers[-1].step:,}"
        for run in runs
        if run.metrics.layers
    )
    first = ", dashed as they were first" if len(runs) == 1 and len(runs[0].metrics.layers) > 1 else ""
    return (
        f"Outputs are those of a training batch, {steps}{first}. Layers without a zero among them are left out where "
        "zeros are shown. The update is the last one: its root mean square by that of the weights."
    )


def _by_layer(runs: Sequence[Run], numbers: Sequence[int], column: Column) -> Element:
    """Return a chart over the layers of some runs, which have the same."""
    newest = {number: runs[number].metrics.layers[-1] for number in numbers}
    lines: list[tuple[str, Values, int, bool]] = []
    for number, point in newest.items():
        name = f"step {point.step:,}" if len(runs) == 1 else runs[number].name
        lines.append((name, column.of(point), number, False))
    if len(runs) == 1 and len(runs[0].metrics.layers) > 1:
        first = runs[0].metrics.layers[0]
        lines.append((f"step {first.step:,}", column.of(first), 1, True))
    names = list(dict.fromkeys(name for _, values, _, _ in lines for name in values))
    if column.log or column.shares:  # what is 0 has no logarithm, and no zeros
        names = [name for name in names if any(values.get(name, 0.0) > 0 for _, values, _, _ in lines)]

    def points(values: Values) -> list[XY]:
        return [(x, values[name]) for x, name in enumerate(names) if _is_drawn(values.get(name), column)]

    drawn = [Line(text, points(values), colour, second) for text, values, colour, second in lines]
    short = [name.removeprefix("trunk.").removeprefix("head.") for name in names]
    return line_chart(column.title, drawn, "", log=column.log, shares=column.shares, x_names=short)


def _is_drawn(value: float | None, column: Column) -> bool:
    return value is not None and (value > 0 or not column.log)


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
