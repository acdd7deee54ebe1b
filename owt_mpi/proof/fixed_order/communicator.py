"""Collectives whose sums over ranks have one order, whatever the transport and the number of ranks."""

from collections.abc import Callable, Sequence

from owt_mpi.comm.base import Array, Communicator, Pending, R, T, Then, check_out, summand
from owt_mpi.comm.wrapper import Call, CommunicatorWrapper
from owt_mpi.proof.fixed_order.pieces import pairwise_sum


class FixedOrderCommunicator(CommunicatorWrapper):
    """`inner`, of a power of two ranks, with sums made pairwise by rank from terms that the ranks gather.

    That moves more bytes than a transport's own sums, which have an order of their own, and not always the same.
    """

    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        return start()

    def _run(self, call: Call, run: Callable[[], T]) -> T:
        return run()

    def _wrap(self, inner: Communicator) -> Communicator:
        return FixedOrderCommunicator(inner)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Gather every rank's x and add them up."""
        if out is not None:
            check_out(x, out)

        def add(terms: Array) -> Array:
            total = pairwise_sum(terms)
            if out is None:
                return total
            out[...] = total
            return out

        return self._gathered(x, add)

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        """Get every rank's block for this rank and add them up."""
        terms = summand(x)[None]
        split_axis = axis % x.ndim + 1
        return Then(self._inner.start_all_to_all(terms, split_axis, concat_axis=0), pairwise_sum)

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        """Gather every rank's x, and add up the rows of this rank."""
        first = sum(num_rows[: self.rank])
        rows = slice(first, first + num_rows[self.rank])
        return self._gathered(x, lambda terms: pairwise_sum(terms[:, rows]))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        """Gather every rank's x, and add them up on the root."""
        return self._gathered(x, lambda terms: pairwise_sum(terms) if self.rank == root else None)

    def _gathered(self, x: Array, then: Callable[[Array], R]) -> Pending[R]:
        return Then(self._inner.start_all_gather(summand(x)[None]), then)
