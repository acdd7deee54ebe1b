"""Ticks are round and within, long curves keep their extremes, and numbers are written shortly."""

import pytest

from owt_mpi.seeing.palette import BLACK, ON_BLACK, ON_WHITE, WHITE
from owt_mpi.seeing.scales import axis_of, percent, thinned, written


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([2.28, 1.03], [1, 1.25, 1.5, 1.75, 2, 2.25]),
        ([1e-9, 3e-9], [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
        ([-5.0, 15.0], [-5, 0, 5, 10, 15]),
        ([9600.0, 12400.0], [10000, 11000, 12000]),
    ],
)
def test_ticks_are_round(values, ticks):
    axis = axis_of(values)
    assert [tick for tick in ticks if axis.low <= tick <= axis.high] == pytest.approx(axis.ticks())
    assert len(axis.ticks()) >= 3


@pytest.mark.parametrize(("values", "ticks"), [([1e-5, 1.0], [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]), ([0.3, 40], [1, 10])])
def test_logarithmic_ticks_are_powers_of_ten(values, ticks):
    axis = axis_of(values, log=True)
    assert axis.log
    assert axis.ticks() == pytest.approx(ticks)
    assert axis.share((axis.low * axis.high) ** 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-2.0], [1e-30], [5e299, 5e299], [0.0, 0.0]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_have_an_axis(values, log):
    axis = axis_of(values, log=log)
    assert axis.low < axis.high
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks()) < 12


def test_few_decades_still_have_two_ticks_and_values_of_zero_have_no_logarithm():
    assert len(axis_of([0.4, 0.9], log=True).ticks()) >= 2
    assert not axis_of([0.0, 0.9], log=True).log
    assert axis_of([2.0, 5.0], from_zero=True).low == 0


def test_a_long_curve_keeps_its_extremes_and_its_means():
    points = [(x, 100.0 if x == 501 else -50.0 if x == 700 else float(x % 2)) for x in range(1, 1001)]
    curve = thinned(points, 100)
    assert len(curve.points) == 100
    assert curve.is_thinned
    assert (max(curve.high), min(curve.low)) == (100.0, -50.0)
    assert curve.points[0] == (10, 0.5)
    assert curve.points[-1][0] == 1000
    short = thinned(points[:100], 100)
    assert not short.is_thinned
    assert list(short.points) == points[:100]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.30000000000000004, "0.3"), (1234.5, "1,234"), (0.00012345, "0.000123"), (1e-5, "1e-5"),
     (2.5e7, "2.5e7"), (-3.14159, "-3.142"), (999.96, "1000")],
)  # fmt: skip
def test_numbers_are_written_shortly(value, text):
    assert written(value) == text


def test_shares_are_written_in_percent():
    assert [percent(each) for each in (0.5, 0.123, 1.0, 0.0004)] == ["50%", "12.3%", "100%", "0%"]


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colours", "ground"), [(ON_WHITE, WHITE), (ON_BLACK, BLACK)], ids=["light", "dark"])
def test_lines_have_the_contrast_that_wcag_wants(colours, ground):
    assert len(ON_WHITE) == len(ON_BLACK)
    for colour in colours:
        dark, light = sorted((luminance(colour) + 0.05, luminance(ground) + 0.05))
        assert light / dark >= 3, colour
