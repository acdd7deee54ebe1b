"""A training step written down: what a rank computes, what it starts to exchange, and where it waits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.comm.base import Array, Communicator, Done, Pending, T
from owt_mpi.planner.ghost import Ghost
from owt_mpi.planner.kernel import Kernel


@dataclass(frozen=True)
class Group:
    """The ranks that a communicator joins: `size` of them, `stride` apart."""

    label: str
    size: int
    stride: int = 1


@dataclass(frozen=True)
class Collective:
    """A collective of `group`. `num_bytes` are those of one rank's x; of rows that ranks give or get, of all rows."""

    group: Group
    kind: str
    num_bytes: int


@dataclass(frozen=True)
class Start:
    """The rank starts a collective, the `number`-th of the step."""

    number: int
    collective: Collective


@dataclass(frozen=True)
class Wait:
    """The rank waits for the collective `number`."""

    number: int


Event = Kernel | Start | Wait


class Recording:
    """The events of one rank in the order in which its program comes to them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._num_started = 0

    def clear(self) -> None:
        """Begin anew; nothing is under way."""
        self.events.clear()
        self._num_started = 0

    def start(self, collective: Collective, result: T) -> Pending[T]:
        """Write down a start and return what writes down the first wait for it."""
        number, self._num_started = self._num_started, self._num_started + 1
        self.events.append(Start(number, collective))
        return _Recorded(self, number, result)


class _Recorded:
    def __init__(self, recording: Recording, number: int, result: Any) -> None:
        self._recording, self._number, self._result, self._is_awaited = recording, number, result, False

    def wait(self) -> Any:
        if not self._is_awaited:
            self._recording.events.append(Wait(self._number))
            self._is_awaited = True
        return self._result


class RecordingCommunicator:
    """Rank 0 of `group`, alone: results have their shapes; small arrays of the host are as if all ranks gave alike."""

    rank = 0

    def __init__(self, group: Group, recording: Recording | None = None) -> None:
        self.size, self.label, self._group, self._recording = group.size, group.label, group, recording

    def dup(self, label: str) -> Communicator:
        return RecordingCommunicator(Group(label, self.size, self._group.stride), self._recording)

    def split(self, color: int, key: int, label: str) -> Communicator:
        raise NotImplementedError("a rank that is alone does not know the others' colours")

    def split_by_node(self, label: str) -> Communicator:
        raise NotImplementedError("a rank that is alone does not know the others' nodes")

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        total = x.copy() if isinstance(x, Ghost) else x * self.size
        return self._start("all_reduce", x.nbytes, total if out is None else out)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start("all_gather", x.nbytes, self._joined(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start("reduce_scatter", x.nbytes, self._block(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        result = Ghost((sum(num_rows), *x.shape[1:]), x.dtype, x.note)
        return self._start(f"all_gather_rows{_senders(num_rows)}", result.nbytes, result)

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        result = Ghost((num_rows[0], *x.shape[1:]), x.dtype, x.note)
        return self._start(f"reduce_scatter_rows{_senders(num_rows)}", x.nbytes, result)

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._start("broadcast", x.nbytes, x)

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        return self._start("reduce", x.nbytes, x if root == 0 else None)

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._start("all_to_all", x.nbytes, self._joined(self._block(x, split_axis), concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return [value] * self.size

    def barrier(self) -> None:
        return None

    def _start(self, kind: str, num_bytes: int, result: Any) -> Pending[Any]:
        if self._recording is None or self.size == 1:
            return Done(result)
        return self._recording.start(Collective(self._group, kind, num_bytes), result)

    def _joined(self, x: Array, axis: int) -> Array:
        if not isinstance(x, Ghost):
            return np.concatenate([x] * self.size, axis)
        return Ghost(_scaled(x.shape, axis, self.size), x.dtype, x.note)

    def _block(self, x: Array, axis: int) -> Ghost:
        shape = list(x.shape)
        assert shape[axis] % self.size == 0, (shape, axis, self.size)
        shape[axis] //= self.size
        return Ghost(tuple(shape), x.dtype, x.note)


def _scaled(shape: tuple[int, ...], axis: int, factor: int) -> tuple[int, ...]:
    scaled = list(shape)
    scaled[axis] *= factor
    return tuple(scaled)


def _senders(num_rows: Sequence[int]) -> str:
    """Return what tells rows of all ranks alike from those of some."""
    return "" if len(set(num_rows)) == 1 else " of some"
