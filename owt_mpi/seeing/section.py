"""A part of the page, and what it says where something of a run is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from owt_mpi.seeing.html import h
from owt_mpi.seeing.palette import colour_class
from owt_mpi.seeing.run_folder import Run


@dataclass(frozen=True)
class Section:
    """A title, what is below it, and the same for machines; `anchor` is where links lead."""

    anchor: str
    title: str
    body: Sequence[Element]
    content: Any = None


def absent(runs: Iterable[Run], part: str) -> list[Element]:
    """Return a line for each run of which `part` is missing or damaged."""
    return [h("p", f"{run.name}: {run.problems[part]}", class_="absent") for run in runs if part in run.problems]


def named(runs: Sequence[Run], number: int) -> Element | None:
    """Return a heading with the name and the colour of a run, None where there is only one."""
    if len(runs) == 1:
        return None
    return h("h3", h("span", class_=f"dot {colour_class(number)}"), runs[number].name, class_="run")
