"""How the cost of a training step grows: `python -m benchmarks.growth --help`.

Time and memory of alexnet's step while one thing grows and all else stays: images, their side, ranks, width.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cases import WARM_UP
from benchmarks.cases_steps import Steps, ours
from benchmarks.contestant import Contestant, take_turns
from benchmarks.machine import machine
from owt_mpi.backends.threads import usable_cores


@dataclass(frozen=True)
class Options:
    """What grows, to what. Each process has one thread; ranks train by scheme (c)."""

    batch: tuple[int, ...] = (16, 32, 64, 128)
    """Images a step of one process."""
    crop: tuple[int, ...] = (96, 128, 192, 256)
    """Sides of the images."""
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of ranks (K)."""
    width: tuple[float, ...] = (0.5, 1, 1.5, 2)
    """Times as many filters and hidden units as alexnet's."""
    usual_batch: int = 32
    """Images a step where sides or widths grow."""
    images_per_rank: int = 16
    """Images of each rank where ranks grow."""
    repeats: int = 3
    """Steps measured of each point, after two that are not."""
    quick: bool = False
    """A look whether all runs, in seconds: two small points of each kind, which say nothing of speed."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Point:
    """A step, and the number that grows; `size` is what work should be proportional to if it were linear."""

    grows: str
    value: float
    size: float
    steps: Steps
    width: float = 1


@dataclass(frozen=True)
class Row:
    """A point. An exponent e says that from the point before to this one the cost grew as size to the power of e."""

    grows: str
    value: float
    step: str
    width: float
    oversubscribed: bool
    seconds: float
    seconds_range: tuple[float, float]
    seconds_exponent: float | None
    peak_bytes: int
    peak_bytes_exponent: float | None
    repeats: int
    machine: str
    versions: dict[str, str]


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.growth", description=__doc__)
    if options.quick:
        options = replace(options, batch=(2, 4), crop=(64, 96), ranks=(1, 2), width=(0.25, 0.5), usual_batch=2,
                          images_per_rank=2)  # fmt: skip
    points = points_of(options)
    if options.repeats < 1 or not points or min(point.value for point in points) <= 0:
        sys.exit("error: --repeats must be at least 1, and what grows must be positive")
    rows: list[Row] = []
    for before, point in zip((None, *points), points, strict=False):
        print(f"{point.grows} {point.value:g} ...", file=sys.stderr, flush=True)
        rows.append(measure(point, options.repeats, before, rows[-1] if rows else None))
        if options.json is not None:  # each time: what is measured is kept, come what may
            content = json.dumps([asdict(row) for row in rows], indent=1)
            options.json.write_text(content + "\n", encoding="utf-8")
    print_table(rows)


def points_of(options: Options) -> list[Point]:
    """Return the points of all that grows, each kind in the order given."""
    crop, classes = (64, 16) if options.quick else (224, 1000)
    usual = Steps("alexnet", 1, 1, options.usual_batch, crop, classes)
    per_rank = replace(usual, batch=options.images_per_rank)
    return [
        *(Point("images", n, n, replace(usual, batch=n)) for n in options.batch),
        *(Point("side of images", side, side**2, replace(usual, crop=side)) for side in options.crop),
        *(Point("ranks", k, k, replace(per_rank, ranks=k)) for k in options.ranks),
        *(Point("width", width, width, usual, width) for width in options.width),
    ]


def measure(point: Point, repeats: int, before: Point | None, row_before: Row | None) -> Row:
    """Return the row of `point`, with exponents from the point before it if the same thing grew there."""
    commands = ours(point.steps, "c", "--width", str(point.width))
    with Contestant(point.grows, commands, point.steps.ranks) as contestant:
        take_turns([contestant], repeats, WARM_UP)
    seconds, peak = median(contestant.seconds), contestant.peak_bytes
    exponents: list[float | None] = [None, None]
    if before is not None and row_before is not None and before.grows == point.grows and before.size != point.size:
        growth = log(point.size / before.size)
        exponents = [log(seconds / row_before.seconds) / growth, log(peak / row_before.peak_bytes) / growth]
    return Row(
        grows=point.grows,
        value=point.value,
        step=str(point.steps),
        width=point.width,
        oversubscribed=point.steps.ranks > usable_cores(),
        seconds=seconds,
        seconds_range=(min(contestant.seconds), max(contestant.seconds)),
        seconds_exponent=exponents[0],
        peak_bytes=peak,
        peak_bytes_exponent=exponents[1],
        repeats=repeats,
        machine=machine(),
        versions=contestant.about,
    )


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, and below what they were measured with."""
    table = Table(title=f"A training step of alexnet as it grows, medians of {rows[0].repeats} (fastest-slowest)")
    for column in ("grows", "to", "step", "s", "exponent", "MB a rank", "exponent"):
        table.add_column(column, justify="left" if column in ("grows", "step") else "right", no_wrap=True)
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None and before.grows != row.grows:
            table.add_section()
        table.add_row(
            row.grows,
            f"{row.value:g}{'*' * row.oversubscribed}",
            row.step,
            f"{row.seconds:.3f} ({row.seconds_range[0]:.3f}-{row.seconds_range[1]:.3f})",
            _exponent(row.seconds_exponent),
            f"{row.peak_bytes / 1e6:.0f}",
            _exponent(row.peak_bytes_exponent),
        )
    console = Console(width=max(140, Console().width))  # a table cut to fit is no table
    console.print(table)
    if any(row.oversubscribed for row in rows):
        console.print("* more ranks than cores, which take turns: K ranks have K / cores times the work to do")
    for name, fact in {"machine": rows[0].machine, **rows[0].versions}.items():
        console.print(f"{name}: {fact}", highlight=False, soft_wrap=True)


def _exponent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
