"""A communicator for arrays of a device, around one that moves the host's: each crosses in a copy on the host."""

from collections.abc import Callable, Sequence

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.comm.base import Array, Communicator, Pending, T, check_array, check_out
from owt_mpi.comm.serial import SerialCommunicator

Start = Callable[[Communicator, Array], Pending[Array | None]]


class _Arriving:
    """A collective of copies on the host; the first wait() hands its result to `deliver`."""

    def __init__(self, pending: Pending[Array | None], deliver: Callable[[np.ndarray], Array]) -> None:
        self._pending: Pending[Array | None] | None = pending
        self._deliver = deliver
        self._result: Array | None = None

    def wait(self) -> Array:
        if self._pending is not None:
            result = self._pending.wait()
            self._result = None if result is None else self._deliver(result)
            self._pending = None
        return self._result


class StagedCommunicator:
    """`inner` for arrays of `backend`'s device. The host's arrays go through as they are.

    `start` waits for the work that makes the array, as does any reader on the host, and copies it; `wait` copies the
    result back, and the device waits for that copy, not the host. Alone, nothing leaves the device.
    """

    def __init__(self, inner: Communicator, backend: Backend) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._backend = inner, backend
        self._alone = SerialCommunicator(inner.label)

    def dup(self, label: str) -> Communicator:
        return StagedCommunicator(self._inner.dup(label), self._backend)

    def split(self, color: int, key: int, label: str) -> Communicator:
        return StagedCommunicator(self._inner.split(color, key, label), self._backend)

    def split_by_node(self, label: str) -> Communicator:
        return StagedCommunicator(self._inner.split_by_node(label), self._backend)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        if out is None:
            return self._start(x, lambda comm, x: comm.start_all_reduce(x))
        if isinstance(x, np.ndarray) or self.size == 1:
            return self._start(x, lambda comm, x: comm.start_all_reduce(x, out))
        check_out(x, out)

        def write(total: np.ndarray) -> Array:
            out[...] = self._backend.from_host(total)
            return out

        return self._start(x, lambda comm, x: comm.start_all_reduce(x), write)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_reduce_scatter(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_all_gather_rows(x, num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_reduce_scatter_rows(x, num_rows))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_broadcast(x, root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        return self._start(x, lambda comm, x: comm.start_reduce(x, root))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._start(x, lambda comm, x: comm.start_all_to_all(x, split_axis, concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _start(self, x: Array, start: Start, deliver: Callable[[np.ndarray], Array] | None = None) -> Pending[Array]:
        """Start a collective of x where x is, or of its copy on the host."""
        if isinstance(x, np.ndarray):
            return start(self._inner, x)
        if self.size == 1:
            return start(self._alone, x)
        check_array(x)
        return _Arriving(start(self._inner, self._backend.to_host(x)), deliver or self._backend.from_host)


def staged(comm: Communicator, backend: Backend) -> Communicator:
    """Return what moves `backend`'s arrays over the ranks of `comm`: `comm` itself where they are the host's."""
    return comm if backend.device is None else StagedCommunicator(comm, backend)
