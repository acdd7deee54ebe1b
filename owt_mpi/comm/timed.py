"""A communicator that adds up how long its rank stood waiting for collectives."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from owt_mpi.comm.base import Array, Communicator, Pending

T = TypeVar("T")


@dataclass
class WaitClock:
    """Seconds a rank has spent inside `wait`, over all communicators that share the clock."""

    seconds: float = 0.0


class _TimedPending(Generic[T]):
    def __init__(self, pending: Pending[T], clock: WaitClock) -> None:
        self._pending, self._clock = pending, clock

    def wait(self) -> T:
        start = time.perf_counter()
        result = self._pending.wait()
        self._clock.seconds += time.perf_counter() - start
        return result


class TimedCommunicator:
    """`inner` with a clock on its waits; what is made of it by dup and split shares the clock."""

    def __init__(self, inner: Communicator, clock: WaitClock) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._clock = inner, clock

    def dup(self, label: str) -> Communicator:
        return TimedCommunicator(self._inner.dup(label), self._clock)

    def split(self, color: int, key: int, label: str) -> Communicator:
        return TimedCommunicator(self._inner.split(color, key, label), self._clock)

    def split_by_node(self, label: str) -> Communicator:
        return TimedCommunicator(self._inner.split_by_node(label), self._clock)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        return self._timed(self._inner.start_all_reduce(x, out))

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._timed(self._inner.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._timed(self._inner.start_reduce_scatter(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._timed(self._inner.start_all_gather_rows(x, num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._timed(self._inner.start_reduce_scatter_rows(x, num_rows))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._timed(self._inner.start_broadcast(x, root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        return self._timed(self._inner.start_reduce(x, root))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._timed(self._inner.start_all_to_all(x, split_axis, concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _timed(self, pending: Pending[T]) -> Pending[T]:
        return _TimedPending(pending, self._clock)
