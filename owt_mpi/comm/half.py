"""A communicator that takes float16 and bfloat16 too, which the transports cannot add up: sums are made in float32."""

from collections.abc import Callable, Sequence

import numpy as np

from owt_mpi.backends.precision import is_half
from owt_mpi.comm.base import Array, Communicator, Pending, T, Then, check_axis, check_contiguous


class HalfCommunicator:
    """`inner`, which moves halves as 16-bit integers; other arrays go through as they are.

    reduce_scatter, and reduce_scatter_rows of as many rows for each rank, send each rank the halves it has to add up,
    so that no sum is rounded before it is complete. Any other sum crosses as float32: twice the bytes, and of uneven
    rows alone (scheme b) is there much of that.
    """

    def __init__(self, inner: Communicator) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner = inner

    def dup(self, label: str) -> Communicator:
        return HalfCommunicator(self._inner.dup(label))

    def split(self, color: int, key: int, label: str) -> Communicator:
        return HalfCommunicator(self._inner.split(color, key, label))

    def split_by_node(self, label: str) -> Communicator:
        return HalfCommunicator(self._inner.split_by_node(label))

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        if not is_half(x.dtype):
            return self._inner.start_all_reduce(x, out)

        def finish(total: Array) -> Array:
            if out is None:
                return total.astype(x.dtype)
            out[...] = total
            return out

        return Then(self._inner.start_all_reduce(_wide(x)), finish)

    def start_all_gather(self, x: Array, axis: int = 0) -> Pending[Array]:
        return self._move(x, lambda x: self._inner.start_all_gather(x, axis))

    def start_reduce_scatter(self, x: Array, axis: int = 0) -> Pending[Array]:
        if not is_half(x.dtype):
            return self._inner.start_reduce_scatter(x, axis)
        axis = check_axis(x, axis)
        block = (*x.shape[:axis], x.shape[axis] // self.size, *x.shape[axis + 1 :])
        terms = self._move(x, lambda x: self._inner.start_all_to_all(x, split_axis=axis, concat_axis=0))
        return Then(terms, lambda terms: _sum(terms.reshape(self.size, *block)))

    def start_all_gather_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        return self._move(x, lambda x: self._inner.start_all_gather_rows(x, num_rows))

    def start_reduce_scatter_rows(self, x: Array, num_rows: Sequence[int]) -> Pending[Array]:
        if not is_half(x.dtype):
            return self._inner.start_reduce_scatter_rows(x, num_rows)
        if len(set(num_rows)) == 1 and num_rows[0] * self.size == x.shape[0]:
            return self.start_reduce_scatter(x)
        total = self._inner.start_reduce_scatter_rows(_wide(x), num_rows)
        return Then(total, lambda total: total.astype(x.dtype))

    def start_broadcast(self, x: Array, root: int) -> Pending[Array]:
        return self._move(x, lambda x: self._inner.start_broadcast(x, root))

    def start_reduce(self, x: Array, root: int) -> Pending[Array | None]:
        if not is_half(x.dtype):
            return self._inner.start_reduce(x, root)
        total = self._inner.start_reduce(_wide(x), root)
        return Then(total, lambda total: None if total is None else total.astype(x.dtype))

    def start_all_to_all(self, x: Array, split_axis: int, concat_axis: int) -> Pending[Array]:
        return self._move(x, lambda x: self._inner.start_all_to_all(x, split_axis, concat_axis))

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def barrier(self) -> None:
        self._inner.barrier()

    def _move(self, x: Array, start: Callable[[Array], Pending[Array]]) -> Pending[Array]:
        """Start what adds nothing up."""
        if not is_half(x.dtype):
            return start(x)
        check_contiguous(x)
        return Then(start(x.view(np.uint16)), lambda moved: moved.view(x.dtype))


def carrying_halves(comm: Communicator, dtype: np.dtype) -> Communicator:
    """Return what moves and sums arrays of `dtype` over the ranks of `comm`: `comm` itself where it can."""
    return HalfCommunicator(comm) if is_half(dtype) else comm


def _wide(x: Array) -> Array:
    check_contiguous(x)
    return x.astype(np.float32)


def _sum(terms: Array) -> Array:
    """Return the sum of the ranks' terms, in rank order, rounded once."""
    total = terms[0].astype(np.float32)
    for term in terms[1:]:
        total += term
    return total.astype(terms.dtype)
