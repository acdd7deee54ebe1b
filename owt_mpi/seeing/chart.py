"""Line charts as inline SVG: colours and text are the page's style, so that they follow its colour scheme."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from xml.etree.ElementTree import Element

from owt_mpi.seeing.html import h
from owt_mpi.seeing.palette import colour_class
from owt_mpi.seeing.scales import XY, Axis, Curve, axis_of, percent, thinned, written

WIDTH, PLOT_HEIGHT = 560, 236
MOST_POINTS = 300  # of a curve: more than the eye tells apart at this width
_MOST_MARKS = 40
_TOP, _RIGHT, _BELOW = 10, 14, 44  # beside the plot; below it are numbers and what they count
_DIGIT, _GAP = 7.4, 18  # width of a digit, and what is beside a number
_NAME_ROOM = 24  # between names that stand aslant
_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_POINTS = 96, 22, 60


@dataclass(frozen=True)
class Line:
    """A curve with its name. `colour` counts the runs, or the parts of a single one; `second` tells a run's second
    curve from its first: dashed, with its points marked."""

    name: str
    points: Sequence[XY]
    colour: int
    second: bool = False


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str = "", log: bool = False, shares: bool = False,
    from_zero: bool = False, x_names: Sequence[str] = (),
) -> Element:  # fmt: skip
    """Return a figure of `lines` with axes and a legend, or, where there are no points, of words that say so.

    `shares` are written in percent, `log` is for values above 0, `from_zero` lets their axis begin there. With
    `x_names` x counts these.
    """
    shown = [line for line in lines if line.points]
    if not shown:
        return h("figure", h("h3", title), h("p", "nothing recorded yet", class_="absent"), class_="chart")
    curves = [thinned(line.points, len(x_names) or MOST_POINTS) for line in shown]
    write = percent if shares else written
    y_axis = axis_of([y for curve in curves for y in (*curve.low, *curve.high)], log, from_zero)
    left = max((len(write(tick)) for tick in y_axis.ticks()), default=0) * _DIGIT + _GAP
    if x_names:
        axis, below = Axis(-0.5, len(x_names) - 0.5), 14 + int(max(map(len, x_names)) * _DIGIT * 0.75)
    else:
        axis, below = _x_axis([x for curve in curves for x, _ in curve.points]), _BELOW
    plot = _Plot(axis, y_axis, left, below, tuple(x_names), write)
    return h(
        "figure",
        h("h3", title, h("span", f" {y_label}", class_="unit") if y_label else None),
        legend([(line.name, line.colour, line.second) for line in shown]),
        h(
            "div",
            h(
                "svg",
                plot.grid(x_label),
                [plot.drawn(line, curve) for line, curve in zip(shown, curves, strict=True)],
                h("line", class_="cursor", x1="0", x2="0", y1=str(_TOP), y2=str(plot.bottom)),
                viewBox=f"0 0 {WIDTH} {plot.bottom + below}",
                role="img",
                aria_label=f"{title}: {', '.join(line.name for line in shown)}",
                data_x=x_label,
            ),
            h("div", class_="tip", hidden=""),
            class_="plot",
        ),
        h("p", "Bands reach from the lowest to the highest value that a point stands for.", class_="note")
        if any(curve.is_thinned for curve in curves)
        else None,
        class_="chart",
    )


def legend(entries: Sequence[tuple[str, int, bool]]) -> Element:
    """Return a list of names, each with a piece of its line: (name, colour, whether it is the second)."""
    return h(
        "ul",
        [
            h("li", h("span", class_=f"key {colour_class(colour)}{' second' if second else ''}"), name)
            for name, colour, second in entries
        ],
        class_="legend",
    )


def sparkline(points: Sequence[XY], colour: int) -> Element:
    """Return a curve of the height of a line of text, without axes."""
    curve = thinned(points, _SPARK_POINTS)
    x_axis, y_axis = _x_axis([x for x, _ in curve.points]), axis_of([y for _, y in curve.points])
    places = " ".join(
        f"{x_axis.share(x) * _SPARK_WIDTH:.1f},{(1 - y_axis.share(y)) * _SPARK_HEIGHT:.1f}" for x, y in curve.points
    )
    line = h("g", h("polyline", points=places), class_=f"line {colour_class(colour)}")
    return h("svg", line, viewBox=f"0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}", class_="spark", aria_hidden="true")


@dataclass(frozen=True)
class _Plot:
    """Where values lie, in the picture's units, and how they are written."""

    x_axis: Axis
    y_axis: Axis
    left: float
    below: int
    x_names: tuple[str, ...]
    write: Callable[[float], str]

    @property
    def bottom(self) -> int:
        return _TOP + PLOT_HEIGHT

    def x(self, value: float) -> float:
        return self.left + self.x_axis.share(value) * (WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.y_axis.share(value) * PLOT_HEIGHT

    def points(self, points: Sequence[XY]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def name_of(self, x: float) -> str:
        """Return x as the axis or a legend under the pointer says it."""
        return self.x_names[int(x)] if self.x_names else written(x)

    def grid(self, x_label: str) -> Element:
        """Return the axes with their numbers."""
        right = WIDTH - _RIGHT
        parts = []
        for tick in self.y_axis.ticks():
            y = self.y(tick)
            parts.append(h("line", x1=f"{self.left:.1f}", x2=str(right), y1=f"{y:.1f}", y2=f"{y:.1f}"))
            parts.append(h("text", self.write(tick), x=f"{self.left - 7:.1f}", y=f"{y + 4:.1f}", text_anchor="end"))
        room = (right - self.left) / max(len(self.x_names), 1)
        every = ceil(_NAME_ROOM / room)  # more names than that would lie over one another
        for tick in range(0, len(self.x_names), every) if self.x_names else self.x_axis.ticks():
            x, y = f"{self.x(tick):.1f}", self.bottom
            parts.append(h("line", x1=x, x2=x, y1=str(y), y2=str(y + 4)))
            if self.x_names:
                turn = f"rotate(-48 {x} {y + 14})"
                parts.append(h("text", self.name_of(tick), x=x, y=str(y + 14), text_anchor="end", transform=turn))
            else:
                parts.append(h("text", self.name_of(tick), x=x, y=str(y + 18), text_anchor="middle"))
        middle = f"{(self.left + right) / 2:.1f}"
        label = h("text", x_label, x=middle, y=str(self.bottom + self.below - 6), text_anchor="middle", class_="label")
        return h("g", parts, label, class_="grid")

    def drawn(self, line: Line, curve: Curve) -> Element:
        """Return a curve, and what to say of each of its points where somebody points at it."""
        xs = [x for x, _ in curve.points]
        band = None
        if curve.is_thinned:
            edges = [*zip(xs, curve.high, strict=True), *reversed(list(zip(xs, curve.low, strict=True)))]
            band = h("polygon", points=self.points(edges))
        most = _MOST_MARKS if line.second or self.x_names else 1
        marks = curve.points if len(curve.points) <= most else ()
        return h(
            "g",
            band,
            h("polyline", points=self.points(curve.points)),
            [h("circle", cx=f"{self.x(x):.1f}", cy=f"{self.y(y):.1f}", r="3") for x, y in marks],
            class_=f"line {colour_class(line.colour)}{' second' if line.second else ''}",
            data_name=line.name,
            data_x="|".join(self.name_of(x) for x in xs),
            data_y="|".join(self.write(y) for _, y in curve.points),
        )


def _x_axis(values: Sequence[float]) -> Axis:
    """Return an axis from end to end of `values`, from 0 where that is not far."""
    low, high = min(values), max(values)
    low = 0.0 if 0 <= low <= high / 2 else low
    return Axis(low, high) if high > low else axis_of(values)
