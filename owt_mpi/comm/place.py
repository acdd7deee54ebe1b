"""Where a rank is in its training: what its collectives are described with when ranks disagree or wait too long.

A rank is a thread here: the ranks of one process each have a position of their own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from owt_mpi.spans import payload


@dataclass(frozen=True)
class Place:
    """A phase of the work, and the step and the head pass if it belongs to one."""

    phase: str = "start-up"
    step: int | None = None
    head_pass: int | None = None


class Position:
    """The place of one rank now. The rank's thread moves it, others may read it."""

    def __init__(self) -> None:
        self.place = Place()


class _Own(threading.local):
    def __init__(self) -> None:
        self.position = Position()


_own = _Own()


def position() -> Position:
    """Return the position of the calling thread, which moves on with it."""
    return _own.position


def enter(phase: str, step: int | None = None) -> None:
    """Be in `phase`, of training step `step` if it belongs to one, until the next call."""
    _own.position.place = Place(phase, step)


@contextmanager
def in_pass(head_pass: int) -> Iterator[None]:
    """Be in that pass of the head within the block."""
    outer = _own.position.place
    _own.position.place = replace(outer, head_pass=head_pass)
    try:
        yield
    finally:
        _own.position.place = outer


def describe(place: Place, part: str = "") -> str:
    """Return the place, and a part of it such as a layer, for people."""
    step = "" if place.step is None else f"step {place.step}"
    head_pass = "" if place.head_pass is None else f"pass {place.head_pass}"
    return ", ".join(word for word in (step, place.phase, head_pass, part) if word)


def here() -> str:
    """Return where the calling thread is and what a collective that it starts now carries, for people."""
    place, carried = _own.position.place, payload()
    if carried.head_pass is not None:  # what is assembled ahead belongs to a later pass
        place = replace(place, head_pass=carried.head_pass)
    return describe(place, carried.name)
