"""A communicator that enters what it moves into a ledger.

Bytes are those of ring collectives among K ranks, each rank sending to the next, for x of b bytes on a rank and blocks
numbered as the ranks are. A collective's adjoint moves the same bytes the other way. A group of one moves nothing.

| collective          | rank r receives                         | rank r sends                          |
|---------------------|-----------------------------------------|---------------------------------------|
| all_gather          | (K-1) b: all blocks but its own         | (K-1) b                               |
| reduce_scatter      | (K-1)/K b                               | (K-1)/K b                             |
| all_reduce          | 2 (K-1)/K b, rounded down               | the same                              |
| all_to_all          | (K-1)/K b                               | (K-1)/K b                             |
| all_gather_rows     | all rows but its own                    | all rows but those of rank r+1        |
| reduce_scatter_rows | all rows but those of rank r-1          | all rows but its own                  |
| broadcast           | b, the root nothing                     | b, the rank before the root nothing   |
| reduce              | b, the rank behind the root nothing     | b, the root nothing                   |

An all_reduce by way of the nodes (comm.node_sums) is counted as the collectives that it is made of. Objects and
barriers are not counted.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from owt_mpi.comm.base import Array, Communicator, Pending
from owt_mpi.comm.ledger import Ledger, Transfer

T = TypeVar("T")


@runtime_checkable
class CountsSums(Protocol):
    """A communicator that does not make its sums by one ring of all ranks."""

    def all_reduce_bytes(self, x: Array) -> tuple[int, int]:
        """Return the bytes that this rank sends and receives for the sum of x."""
        ...


class _MeteredPending(Generic[T]):
    def __init__(self, pending: Pending[T], ledger: Ledger, transfer: Transfer) -> None:
        transfer.source = pending
        self._pending, self._ledger = pending, ledger
        self._transfer: Transfer | None = transfer

    def wait(self) -> T:
        if self._transfer is None:
            return self._pending.wait()
        begin = self._ledger.clock()
        result = self._pending.wait()
        self._ledger.finish(self._transfer, begin, self._ledger.clock())
        self._transfer = None
        return result


class MeteredCommunicator:
    """`inner`, entering its collectives into `ledger`; what is made of it by dup and split has the same ledger."""

    def __init__(self, inner: Communicator, ledger: Ledger) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._ledger = inner, ledger

    def dup(self, label: str) -> Communicator:
        return MeteredCommunicator(self._inner.dup(label), self._ledger)

    def split(self, color: int, key: int, label: str) -> Communicator:
        return MeteredCommunicator(self._inner.split(color, key, label), self._ledger)

    def split_by_node(self, label: str) -> Communicator:
        return MeteredCommunicator(self._inner.split_by_node(label), self._ledger)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        if isinstance(self._inner, CountsSums):
            sent, received = self._inner.all_reduce_bytes(x)
        else:
            sent = received = 2 * (self.size - 1) * x.nbytes // self.size
        return self._metered("all_reduce", sent, received, self._inner.start_all_reduce(x, out))

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        moved = (self.size - 1) * x.nbytes
        return self._metered("all_gather", moved, moved, self._inner.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        moved = (self.size - 1) * x.nbytes // self.size
        return self._metered("reduce_scatter", moved, moved, self._inner.start_reduce_scatter(x, axis))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        pending = self._inner.start_all_gather_rows(x, num_rows)  # which checks num_rows
        sent, received = self._rows_but_of(1, x, num_rows), self._rows_but_of(0, x, num_rows)
        return self._metered("all_gather_rows", sent, received, pending)

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        pending = self._inner.start_reduce_scatter_rows(x, num_rows)
        sent, received = self._rows_but_of(0, x, num_rows), self._rows_but_of(-1, x, num_rows)
        return self._metered("reduce_scatter_rows", sent, received, pending)

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        sent, received = self._unless((root - 1) % self.size, x), self._unless(root, x)
        return self._metered("broadcast", sent, received, self._inner.start_broadcast(x, root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        sent, received = self._unless(root, x), self._unless((root + 1) % self.size, x)
        return self._metered("reduce", sent, received, self._inner.start_reduce(x, root))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        moved = (self.size - 1) * x.nbytes // self.size
        return self._metered("all_to_all", moved, moved, self._inner.start_all_to_all(x, split_axis, concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _rows_but_of(self, neighbour: int, x: Array, num_rows: Sequence[int]) -> int:
        """Return the bytes of all ranks' rows but those of the rank `neighbour` places on."""
        row_bytes = int(x.dtype.itemsize)
        for length in x.shape[1:]:
            row_bytes *= length
        return (sum(num_rows) - num_rows[(self.rank + neighbour) % self.size]) * row_bytes

    def _unless(self, rank: int, x: Array) -> int:
        return 0 if self.rank == rank else int(x.nbytes)

    def _metered(self, collective: str, sent_bytes: int, received_bytes: int, pending: Pending[T]) -> Pending[T]:
        """Return `pending`, with its call counted and its first wait timed."""
        if self.size == 1:
            return pending
        transfer = self._ledger.start(self.label, collective, sent_bytes, received_bytes)
        return _MeteredPending(pending, self._ledger, transfer)
