"""The communicator for arrays of a device: packs, starts a transport, and lets streams wait instead of the host.

The caller's stream is CuPy's current one where `start_x` and `wait` are called; both have the same. Memory is taken
and given back on it alone: CuPy hands freed memory to the next array of the stream at once, so that what another
stream allocated could be overwritten while this one reads it.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Generic, Protocol

import numpy as np

from owt_mpi.comm.base import (
    Array,
    Communicator,
    Pending,
    T,
    block_of,
    check_array,
    check_axis,
    check_out,
    check_root,
    check_rows,
    summand,
)
from owt_mpi.comm.buffers import check_count, counts_of, joined_shape
from owt_mpi.comm.calls import Calls
from owt_mpi.comm.serial import SerialCommunicator

Event = Any  # cupy.cuda.Event


class Lane(Protocol):
    """What moves device buffers among the ranks of one communicator."""

    max_count: int | None  # elements of one message, None: any number
    sums_as_inner: bool  # an all-reduce is that of the communicator, not one of the lane's own

    def start(self, call: Callable[[Calls], None], ready: Event) -> Pending[Event | None]:
        """Make `call` with the lane's calls when the work before `ready` is done.

        The result is an event behind which the buffers are filled, None where they are filled by then.
        """
        ...

    def dup(self, comm: Communicator) -> "Lane":
        """Return the lane of `comm`, a duplicate of this one's communicator. All ranks call."""
        ...


MakeLane = Callable[[Communicator], Lane]


def is_device_array(x: Array) -> bool:
    """Return whether x lies in a device's memory, without touching it."""
    return not isinstance(x, np.ndarray) and hasattr(type(x), "__cuda_array_interface__")


class _Arriving(Generic[T]):
    """A collective of device buffers, all of which it keeps until the caller's stream waits for their last use."""

    def __init__(self, moving: Pending[Event | None], xp: ModuleType, finish: Callable[[], T], kept: object) -> None:
        self._moving, self._xp, self._kept = moving, xp, kept
        self._finish: Callable[[], T] | None = finish
        self._result: T

    @property
    def began(self) -> float | None:
        return getattr(self._moving, "began", None)

    @property
    def ended(self) -> float | None:
        return getattr(self._moving, "ended", None)

    def wait(self) -> T:
        if self._finish is not None:
            filled = self._moving.wait()
            if filled is not None:
                self._xp.cuda.get_current_stream().wait_event(filled)
            self._result = self._finish()
            self._finish = self._kept = None
        return self._result


class DeviceCommunicator:
    """`inner` for the host's arrays, and for those of the device of `xp` (CuPy) a lane beside it.

    `make_lane` returns the lane of a communicator; all its ranks call. `start_x` never waits for the device, and
    `wait` only until the lane has handed over what the stream can wait for.
    """

    def __init__(self, inner: Communicator, xp: ModuleType, make_lane: MakeLane, lane: Lane | None = None) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._xp, self._make_lane = inner, xp, make_lane
        self._lane = lane or make_lane(inner)
        self._alone = SerialCommunicator(inner.label)

    def dup(self, label: str) -> Communicator:
        inner = self._inner.dup(label)
        return DeviceCommunicator(inner, self._xp, self._make_lane, self._lane.dup(inner))

    def split(self, color: int, key: int, label: str) -> Communicator:
        return DeviceCommunicator(self._inner.split(color, key, label), self._xp, self._make_lane)

    def split_by_node(self, label: str) -> Communicator:
        return DeviceCommunicator(self._inner.split_by_node(label), self._xp, self._make_lane)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_all_reduce(x, out)
        self._check(x)
        terms = summand(x)
        if out is None:
            total = self._xp.empty(terms.shape, terms.dtype)
        else:
            check_out(x, out)
            total = out
        source, target = terms.reshape(-1), total.reshape(-1)
        if x.size and x.data.ptr == total.data.ptr:
            source = target
        elif x.data.ptr < total.data.ptr + total.nbytes and total.data.ptr < x.data.ptr + x.nbytes:
            raise ValueError("x and out overlap in memory; pass the same array, or two that do not overlap")
        return self._start(lambda calls: calls.all_reduce(source, target), lambda: total, (source, target))

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_all_gather(x, axis)
        self._check(x, self.size)
        axis = check_axis(x, axis)
        blocks = self._xp.empty((self.size, *x.shape), x.dtype)
        source, target, counts = x.reshape(-1), blocks.reshape(-1), [x.size] * self.size
        return self._start(
            lambda calls: calls.all_gather(source, target, counts), lambda: self._joined(blocks, axis), (source, target)
        )

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_reduce_scatter(x, axis)
        self._check(x)
        axis = check_axis(x, axis)
        terms = summand(x)
        result = self._xp.empty(block_of(x, axis, self.rank, self.size).shape, terms.dtype)
        source, target = self._packed(terms, axis), result.reshape(-1)
        counts = [result.size] * self.size
        return self._start(lambda calls: calls.reduce_scatter(source, target, counts), lambda: result, (source, target))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_all_gather_rows(x, num_rows)
        self._check(x)
        check_rows(x, num_rows, self.size, num_rows[self.rank])
        result = self._xp.empty((sum(num_rows), *x.shape[1:]), x.dtype)
        source, target, counts = x.reshape(-1), result.reshape(-1), counts_of(x, num_rows)
        return self._start(lambda calls: calls.all_gather(source, target, counts), lambda: result, (source, target))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_reduce_scatter_rows(x, num_rows)
        self._check(x)
        check_rows(x, num_rows, self.size, sum(num_rows))
        terms = summand(x)
        result = self._xp.empty((num_rows[self.rank], *x.shape[1:]), terms.dtype)
        source, target, counts = terms.reshape(-1), result.reshape(-1), counts_of(x, num_rows)
        return self._start(lambda calls: calls.reduce_scatter(source, target, counts), lambda: result, (source, target))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_broadcast(x, root)
        self._check(x)
        check_root(root, self.size)
        result = x.copy() if self.rank == root else self._xp.empty(x.shape, x.dtype)
        buffer = result.reshape(-1)
        return self._start(lambda calls: calls.broadcast(buffer, root), lambda: result, buffer)

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        if self._is_not_for_lane(x):
            return self._other(x).start_reduce(x, root)
        self._check(x)
        check_root(root, self.size)
        terms = summand(x)
        result = self._xp.empty(terms.shape, terms.dtype) if self.rank == root else None
        source, target = terms.reshape(-1), None if result is None else result.reshape(-1)
        return self._start(lambda calls: calls.reduce(source, target, root), lambda: result, (source, target))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        if self._is_not_for_lane(x):
            return self._other(x).start_all_to_all(x, split_axis, concat_axis)
        self._check(x)
        split_axis = check_axis(x, split_axis, "split_axis")
        concat_axis = check_axis(x, concat_axis, "concat_axis")
        block_shape = block_of(x, split_axis, self.rank, self.size).shape
        blocks = self._xp.empty((self.size, *block_shape), x.dtype)
        source, target = self._packed(x, split_axis), blocks.reshape(-1)
        return self._start(
            lambda calls: calls.all_to_all(source, target), lambda: self._joined(blocks, concat_axis), (source, target)
        )

    def all_reduce_bytes(self, x: Array) -> tuple[int, int]:
        """Return what this rank sends and receives for a sum of x, as comm.metered counts it."""
        by_nodes = getattr(self._inner, "all_reduce_bytes", None)
        if by_nodes is not None and (self._lane.sums_as_inner or not is_device_array(x)):
            sent, received = by_nodes(x)
            return sent, received
        moved = 2 * (self.size - 1) * int(x.nbytes) // self.size
        return moved, moved

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _is_not_for_lane(self, x: Array) -> bool:
        """Return whether x is the host's, or stays where it is because this rank is alone."""
        return self.size == 1 or not is_device_array(x)

    def _other(self, x: Array) -> Communicator:
        return self._alone if is_device_array(x) else self._inner

    def _check(self, x: Array, num_copies: int = 1) -> None:
        check_array(x)
        if self._lane.max_count is not None:
            check_count(x, num_copies, self._lane.max_count)

    def _start(self, call: Callable[[Calls], None], finish: Callable[[], T], kept: object) -> Pending[T]:
        """Start `call` behind what the caller's stream has been given so far; `finish` follows on it in wait()."""
        ready = self._xp.cuda.Event(block=True, disable_timing=True)  # a thread that waits for it sleeps
        self._xp.cuda.get_current_stream().record(ready)
        return _Arriving(self._lane.start(call, ready), self._xp, finish, kept)

    def _packed(self, x: Array, axis: int) -> Array:
        """Return x's `size` blocks along `axis` one after another, flat: in x's memory if they lie so, else copied."""
        step = x.shape[axis] // self.size
        blocks = x.reshape((*x.shape[:axis], self.size, step, *x.shape[axis + 1 :]))
        first = (axis, *range(axis), *range(axis + 1, blocks.ndim))
        return self._xp.ascontiguousarray(blocks.transpose(*first)).reshape(-1)

    def _joined(self, blocks: Array, axis: int) -> Array:
        """Return blocks[0], blocks[1], ... joined along `axis`: in their memory if that is no work, else copied."""
        back = (*range(1, axis + 1), 0, *range(axis + 1, blocks.ndim))
        return self._xp.ascontiguousarray(blocks.transpose(*back)).reshape(
            joined_shape(blocks.shape[1:], axis, self.size)
        )
