"""Sums over ranks of arrays that cross the wire in another type than they are computed in."""

import numpy as np

from owt_mpi.backends.base import Array
from owt_mpi.backends.precision import exact_dtype
from owt_mpi.comm.base import Communicator, Done, Pending, Then
from owt_mpi.parallel.wire_format import WireDtype, from_wire, to_wire


class Wire:
    """Sums flat arrays over the ranks of `comm`, each rank's terms crossing as `dtype`; "auto": as they are.

    No sum is made in 16 bits: terms go to the rank that owns their block, which adds them up, in rank order, in the
    type they were computed in, halves in float32. Let u be half the spacing of the type's numbers at 1 (2^-24, 2^-11,
    2^-8 for float32, float16, bfloat16) and S the sum of the terms' magnitudes: rounding makes the sum wrong by at most
    u S, and by (2 u + u^2) S where it is rounded once more for its way back (all_reduce). Below the type's normal range
    (float16: 6.1e-5) the error of a term is absolute instead, at most half of the smallest number (float16: 3e-8).
    """

    def __init__(self, comm: Communicator, dtype: WireDtype) -> None:
        self._comm, self._dtype = comm, dtype

    @property
    def rounds(self) -> bool:
        """Whether terms cross in another type; arrays must then have a multiple of `comm.size` elements."""
        return self._dtype != "auto"

    def start_reduce_scatter(self, flat: Array) -> Pending[Array]:
        """Rank r gets block r of the sum, in the dtype of `flat`, or in float32 where that is a half."""
        if not self.rounds:
            return self._comm.start_reduce_scatter(flat)
        terms = self._comm.start_all_to_all(to_wire(flat, self._dtype), split_axis=0, concat_axis=0)
        return Then(terms, lambda terms: self._sum(terms, exact_dtype(flat.dtype)))

    def start_all_reduce(self, flat: Array) -> Pending[Pending[Array]]:
        """Every rank gets the sum in `flat`, the same bits, in up to two exchanges: the first's wait() starts the next.

        So start the sums of several arrays, wait for the first exchange of each, then for the second of each.
        """
        if not self.rounds:
            return Done(self._comm.start_all_reduce(flat, out=flat))

        def start_return(own: Array) -> Pending[Array]:
            return Then(self._comm.start_all_gather(to_wire(own, self._dtype)), write)

        def write(total: Array) -> Array:
            flat[...] = from_wire(total, self._dtype, exact_dtype(flat.dtype))
            return flat

        return Then(self.start_reduce_scatter(flat), start_return)

    def _sum(self, terms: Array, dtype: np.dtype) -> Array:
        first, *others = terms.reshape(self._comm.size, -1)
        total = from_wire(first, self._dtype, dtype)
        for term in others:
            total += from_wire(term, self._dtype, dtype)
        return total
