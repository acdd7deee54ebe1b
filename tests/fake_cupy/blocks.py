"""Blocks of device memory, and who touches them when: what is not over yet is known of each."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TOTAL_BYTES = 1 << 30  # of a device
ALIGNMENT = 512  # of arrays, and what their sizes in memory are multiples of
LOCK = threading.RLock()  # one device, one operation at a time
RACES: list[str] = []  # every race found, as some callers (mpi4py) swallow the exception


class RaceError(RuntimeError):
    """Memory is touched while work on it that is not ordered before may still run."""


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


@dataclass(frozen=True)
class Access:
    """One enqueued operation's use of the bytes [start, stop) of a block of memory."""

    stream: Any  # an engine.Stream
    number: int
    start: int
    stop: int
    is_write: bool

    def is_over(self) -> bool:
        return self.stream.num_done >= self.number


class Block:
    """Device memory: bytes, and the accesses to them that are not over. `is_gone`: given back to the driver."""

    is_gone = False

    def __init__(self, num_bytes: int, device: int) -> None:
        space = np.empty(num_bytes + ALIGNMENT, np.uint8)
        first = -space.__array_interface__["data"][0] % ALIGNMENT
        self.bytes = space[first : first + num_bytes]
        self.device = device
        self.accesses: list[Access] = []

    def extent(self, view: np.ndarray) -> tuple[int, int]:
        """Return which bytes of this block `view` spans."""
        first = view.__array_interface__["data"][0] - self.bytes.__array_interface__["data"][0]
        if view.size == 0:
            return first, first
        reaches = [(length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True)]
        start = first + sum(reach for reach in reaches if reach < 0)
        return start, first + sum(reach for reach in reaches if reach > 0) + view.itemsize

    def pending(self, view: np.ndarray, is_write: bool) -> list[Access]:
        """Return the accesses that are not over and conflict with reading (or writing) `view`."""
        self.accesses = [access for access in self.accesses if not access.is_over()]
        start, stop = self.extent(view)
        return [a for a in self.accesses if (is_write or a.is_write) and a.start < stop and start < a.stop]


Use = tuple[Block, np.ndarray]  # a block and the part of it that an operation touches
Operation = tuple[Callable[[], None], Sequence[Use], Sequence[Use]]  # what it does, reads and writes
