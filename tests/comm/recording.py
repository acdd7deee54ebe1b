"""A communicator that writes down what is started and waited for, in order: how overlap is proven without a clock."""

from collections.abc import Sequence
from typing import Any

from owt_mpi.comm.base import Array, Communicator, Pending

Events = list[str]


class _RecordedPending:
    def __init__(self, pending: Pending[Any], name: str, events: Events) -> None:
        self._pending, self._name, self._events = pending, name, events

    def wait(self) -> Any:
        self._events.append(f"wait {self._name}")
        return self._pending.wait()


class RecordingCommunicator:
    """`inner`, with "start all_gather 1" and "wait all_gather 1" appended to `events` for the first all-gather."""

    def __init__(self, inner: Communicator, events: Events) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._events, self._num_started = inner, events, 0

    def _record(self, name: str, pending: Pending[Any]) -> Pending[Any]:
        self._num_started += 1
        name = f"{name} {self._num_started}"
        self._events.append(f"start {name}")
        return _RecordedPending(pending, name, self._events)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        return self._record("all_reduce", self._inner.start_all_reduce(x, out))

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._record("all_gather", self._inner.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._record("reduce_scatter", self._inner.start_reduce_scatter(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._record("all_gather_rows", self._inner.start_all_gather_rows(x, num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._record("reduce_scatter_rows", self._inner.start_reduce_scatter_rows(x, num_rows))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._record("all_to_all", self._inner.start_all_to_all(x, split_axis, concat_axis))
