"""Numbers on axes: where ticks are, how they are written, and long curves made short."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

XY = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, along a line or along their logarithms."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at `low`, 1 at `high`."""
        low, high, at = (log10(each) if self.log else each for each in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values, `most` at the most."""
        if self.log:
            powers = range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)
            step = max(1, ceil(len(powers) / most))
            found = [10.0**power for power in powers if power % step == 0]
            if len(found) >= 2:
                return found
            return [tick for tick in _linear(self.low, self.high, most) if tick > 0]
        return _linear(self.low, self.high, most)


def axis_of(values: Sequence[float], log: bool = False, from_zero: bool = False) -> Axis:
    """Return an axis that shows all `values`, with some room; logarithmic where asked and all are above 0."""
    low, high = min(values), max(values)
    if log and low > 0:
        room = (high / low) ** 0.04 if high > low else 2.0
        return Axis(low / room, high * room, log=True)
    if from_zero and low >= 0:
        low = 0.0
    if high <= low:
        high, low = high + max(abs(high), 1e-9) / 2, low - (abs(low) / 2 if low else 0.0)
    room = 0.04 * (high - low)
    return Axis(low if from_zero and low == 0 else low - room, high + room)


def written(value: float) -> str:
    """Return a number as an axis or a table has it: three or four digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share in percent, with a decimal where it is not whole."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


@dataclass(frozen=True)
class Curve:
    """A curve as it is drawn: the mean of each piece of the points, and the lowest and highest value in it."""

    points: tuple[XY, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def is_thinned(self) -> bool:
        """Whether a point stands for several."""
        return self.low != self.high


def thinned(points: Sequence[XY], most: int) -> Curve:
    """Return the curve of at most `most` points; each is the last x of a piece, and the mean of its y."""
    size = max(1, ceil(len(points) / most))
    pieces = [points[start : start + size] for start in range(0, len(points), size)]
    values = [[y for _, y in piece] for piece in pieces]
    return Curve(
        tuple((piece[-1][0], sum(ys) / len(ys)) for piece, ys in zip(pieces, values, strict=True)),
        tuple(map(min, values)),
        tuple(map(max, values)),
    )


def _linear(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    unit = 10.0 ** floor(log10(raw))
    step = next(each * unit for each in (1, 2, 2.5, 5, 10) if each * unit >= raw * 0.999)
    first = ceil(low / step - 1e-9)
    return [tick * step for tick in range(first, floor(high / step + 1e-9) + 1)]
