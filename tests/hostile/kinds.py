"""The kinds of hostile input: how each is made from a sound one, and what of the program it is given to."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.hostile.verdicts import Entry

MODULES = (
    "kinds_of_checkpoints", "kinds_of_data", "kinds_of_files", "kinds_of_runs", "kinds_of_sources", "kinds_of_tensors",
)  # fmt: skip
SOUND, COPY, ELSEWHERE = "sound", "copy", "elsewhere"  # folders beside each other, the last one for what is written


@dataclass(frozen=True)
class Use:
    """A way in which the program reads an input: `entry` reads it, and refuses it with one of `codes`."""

    name: str
    entry: Entry
    codes: tuple[int, ...] = (3,)


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    `build` writes the sound one into an empty folder. `mutate(rng, copy, canary)` changes a copy of that folder and
    says how; it may lead to the file `canary`. `uses(copy, sound)` are what the copy is given to.
    """

    name: str
    build: Callable[[Path], object]
    mutate: Callable[[Random, Path, Path], str]
    uses: Callable[[Path, Path], Iterator[Use]]


def kinds_in(modules: Sequence[str] = MODULES) -> dict[str, Kind]:
    """Return the kinds in the modules of those names, by their own names."""
    found = [importlib.import_module(f"tests.hostile.{module}") for module in modules]
    return {kind.name: kind for module in found for kind in module.KINDS}
