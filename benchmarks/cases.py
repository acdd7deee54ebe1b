"""What a row of vs_pytorch is made of: the setting, what was measured on two sides, and the row with its goals."""

import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.loader_data import write_random_shards
from benchmarks.machine import machine

WARM_UP = 2
UNITS = {"images/s": (1.0, "images/s"), "s": (1.0, "s"), "bytes": (1e6, "MB"), "bytes/s": (1e9, "GB/s")}


@dataclass(frozen=True)
class Sizes:
    """Sides and numbers of images of everything that is measured; the second batch is of each of 2 ranks."""

    crop: int = 224
    stored: int = 256
    classes: int = 1000
    batch: int = 128
    large: int = 64
    small: int = 16
    vgg: int = 8
    shard_images: int = 1280
    read_images: int = 1000
    read_batch: int = 100


QUICK = Sizes(64, 72, 10, batch=4, large=4, small=2, vgg=2, shard_images=64, read_images=24, read_batch=8)


@dataclass(frozen=True)
class Setting:
    """How all cases of a run are measured. What they need on disk goes into `folder`."""

    sizes: Sizes
    repeats: int
    scheme: str
    folder: Path


@functools.cache
def random_shards(setting: Setting) -> Path:
    """Return raw shards of random images that are stored larger than they are seen."""
    return write_random_shards(setting.folder / "random", setting.sizes.shard_images, setting.sizes.stored)


@dataclass(frozen=True)
class Side:
    """What one of the two sides is, and what was measured of it, in turns with the other."""

    what: str
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)


@dataclass(frozen=True)
class Measured:
    """Both sides of a case, in `unit`: seconds and bytes are better where there are fewer. Or `why_not`."""

    case: str
    unit: str
    ours: Side | None
    theirs: Side | None
    versions: dict[str, str] = field(default_factory=dict)
    why_not: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as good as theirs ours is."""
        if self.ours is None or self.theirs is None:
            return None
        ours, theirs = self.ours.value, self.theirs.value
        return theirs / ours if self.unit in {"s", "bytes"} else ours / theirs


@dataclass(frozen=True)
class Case:
    """A case by its name on the command line, what its ratio should be, and what measures it."""

    name: str
    goal: float
    stretch: float | None
    measure: Callable[[Setting], Measured]
    needs_pytorch: bool = True


@dataclass(frozen=True)
class Row:
    """A line of the table. `ratio`: more is better; ranges: the least and the largest of the values."""

    name: str
    case: str
    unit: str
    ours: float | None
    theirs: float | None
    ratio: float | None
    goal: float
    stretch: float | None
    ours_range: tuple[float, float] | None
    theirs_range: tuple[float, float] | None
    ours_is: str
    theirs_is: str
    repeats: int
    machine: str
    versions: dict[str, str]


def row_of(case: Case, setting: Setting) -> Row:
    """Measure `case` and return its row."""
    told = case.measure(setting)
    ours, theirs = told.ours, told.theirs
    return Row(
        name=case.name,
        case=told.case,
        unit=told.unit,
        ours=ours and ours.value,
        theirs=theirs and theirs.value,
        ratio=told.ratio,
        goal=case.goal,
        stretch=case.stretch,
        ours_range=ours and _range(ours.values),
        theirs_range=theirs and _range(theirs.values),
        ours_is=told.why_not if ours is None else ours.what,
        theirs_is="" if theirs is None else theirs.what,
        repeats=setting.repeats,
        machine=machine(),
        versions={"python": platform.python_version(), **told.versions},
    )


def per_second(amount: float, seconds: Sequence[float]) -> tuple[float, ...]:
    """Return the speeds of doing `amount` in so many seconds each time."""
    return tuple(amount / each for each in seconds)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
