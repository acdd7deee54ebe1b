"""A communicator of device arrays as one of the host's: what it is given goes to the device, what comes to the host."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from owt_mpi.comm.base import Array, Communicator, Pending

Hook = Callable[[], None]


class _ToHost:
    def __init__(self, pending: Pending[Array], host: Callable[[Array], Any]) -> None:
        self._pending, self._host = pending, host
        self._result: list[Any] = []

    def wait(self) -> Any:
        arrived = self._pending.wait()
        assert self._pending.wait() is arrived
        if not self._result:
            self._result.append(self._host(arrived))
        return self._result[0]


class OnDevice:
    """`inner`, of device arrays, for the checks of every communicator. Work on an array is under way when it starts."""

    def __init__(self, inner: Communicator, xp: Any) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._xp = inner, xp

    def dup(self, label: str) -> Communicator:
        return OnDevice(self._inner.dup(label), self._xp)

    def split(self, color: int, key: int, label: str) -> Communicator:
        return OnDevice(self._inner.split(color, key, label), self._xp)

    def split_by_node(self, label: str) -> Communicator:
        return OnDevice(self._inner.split_by_node(label), self._xp)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        there = self._to_device(x)
        if out is None:
            return self._start(self._inner.start_all_reduce(there))
        there_out = there if out is x else self._to_device(out)

        def write(total: Array) -> Array:
            assert total is there_out
            out[...] = total.get()
            return out

        return _ToHost(self._inner.start_all_reduce(there, there_out), write)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(self._inner.start_all_gather(self._to_device(x), axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(self._inner.start_reduce_scatter(self._to_device(x), axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._start(self._inner.start_all_gather_rows(self._to_device(x), num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._start(self._inner.start_reduce_scatter_rows(self._to_device(x), num_rows))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._start(self._inner.start_broadcast(self._to_device(x), root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array]:
        return self._start(self._inner.start_reduce(self._to_device(x), root))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._start(self._inner.start_all_to_all(self._to_device(x), split_axis, concat_axis))

    def all_gather_object(self, value: Any) -> list[Any]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _to_device(self, x: np.ndarray) -> Array:
        """Return x in the same memory order, of work that is still to be done on the current stream."""
        if x.ndim > 1 and not x.flags.c_contiguous:
            return self._to_device(x.T).T
        there = self._xp.asarray(x)
        assert there.dtype == x.dtype
        return there.copy()

    def _start(self, pending: Pending[Array]) -> Pending[Array]:
        def get(result: Array | None) -> np.ndarray | None:
            assert result is None or isinstance(result, self._xp.ndarray)
            return None if result is None else result.get()

        return _ToHost(pending, get)
