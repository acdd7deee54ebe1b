"""Blocking collectives on buffers, and what runs them in order: the ground on which transports are built."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from owt_mpi.comm.base import Array, Communicator, Done, Pending, T


class Calls(Protocol):
    """Collectives of one group of ranks, each done on return, or enqueued where buffers are a device's.

    Buffers are flat and C-contiguous, and nothing is checked. `counts` are elements for each rank.
    """

    def all_reduce(self, x: Array, out: Array) -> None:
        """Write the sum over ranks to `out`, which may be x itself."""
        ...

    def all_gather(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Write the ranks' x one after another; rank r gives counts[r] elements."""
        ...

    def reduce_scatter(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Write this rank's counts[r] elements of the sum over ranks, after those of the ranks before it."""
        ...

    def broadcast(self, x: Array, root: int) -> None:
        """Write root's x to every rank's."""
        ...

    def reduce(self, x: Array, out: Array | None, root: int) -> None:
        """Write the sum over ranks to root's `out`, which may be x itself; the others have None."""
        ...

    def all_to_all(self, x: Array, out: Array) -> None:
        """Write block r of every rank's x to rank r, in rank order; blocks are equal."""
        ...


@runtime_checkable
class Engine(Protocol):
    """A communicator that offers its blocking calls, and runs what may make them in the order it was handed in."""

    calls: Calls

    def submit(self, call: Callable[[], T]) -> Pending[T]:
        """Return the pending result of `call`, which runs after all that was handed in before."""
        ...


class CommunicatorCalls:
    """The blocking calls of any communicator, on the host's buffers."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def all_reduce(self, x: Array, out: Array) -> None:
        self._comm.start_all_reduce(x, out).wait()

    def all_gather(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        out[...] = self._comm.start_all_gather_rows(x, counts).wait()

    def reduce_scatter(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        out[...] = self._comm.start_reduce_scatter_rows(x, counts).wait()

    def broadcast(self, x: Array, root: int) -> None:
        x[...] = self._comm.start_broadcast(x, root).wait()

    def reduce(self, x: Array, out: Array | None, root: int) -> None:
        total = self._comm.start_reduce(x, root).wait()
        if out is not None:
            out[...] = total

    def all_to_all(self, x: Array, out: Array) -> None:
        out[...] = self._comm.start_all_to_all(x, 0, 0).wait()


class InlineEngine:
    """The calls of a communicator that has no thread for them: what is handed in runs at once, in the caller."""

    def __init__(self, comm: Communicator) -> None:
        self.calls: Calls = CommunicatorCalls(comm)

    def submit(self, call: Callable[[], T]) -> Pending[T]:
        return Done(call())


def engine_of(comm: Communicator) -> Engine:
    """Return `comm` where it is an engine itself, else one that makes its calls in the calling thread."""
    return comm if isinstance(comm, Engine) else InlineEngine(comm)
