"""The paper's schemes: how the examples at the boundary of trunk and head reach the head's ranks, pass by pass.

`comm` is the group of K ranks that share one head, each with `num_rows` examples (n) of its own; the group's batch is
their concatenation in rank order, K n rows.

| scheme | passes | assemble(p)            | return(p)            |
|--------|--------|------------------------|----------------------|
| (a)    | 1      | all_gather(activations)| reduce_scatter(grad) |
"""

from typing import Protocol

import numpy as np

from owt_mpi.backends.base import Array
from owt_mpi.comm.base import Communicator, Pending


class Scheme(Protocol):
    """One way to cut the group's batch into head passes. `start_return` is the adjoint of `start_assemble`."""

    name: str

    def num_passes(self, size: int) -> int:
        """Return the number of passes of the head an iteration makes with `size` ranks."""
        ...

    def group_rows(self, size: int, num_rows: int, p: int) -> np.ndarray:
        """Return which rows of the group's batch pass p runs on, in the order it gets them, int64."""
        ...

    def own_rows(self, comm: Communicator, num_rows: int, p: int) -> slice | None:
        """Return which of this rank's rows pass p returns the gradient of, None where it returns none."""
        ...

    def start_assemble(self, comm: Communicator, acts: Array, p: int) -> Pending[Array]:
        """Start to collect the activations of pass p from their ranks. `acts` are this rank's, (n, features)."""
        ...

    def start_return(self, comm: Communicator, grad: Array, p: int) -> Pending[Array | None]:
        """Start to send pass p's gradient of the assembled activations back, summed over ranks, to their ranks."""
        ...


class SchemeA:
    """(a): every rank gets all K n examples at once and the head runs one pass. On a group of one: no exchange."""

    name = "a"

    def num_passes(self, size: int) -> int:
        return 1

    def group_rows(self, size: int, num_rows: int, p: int) -> np.ndarray:
        return np.arange(size * num_rows)

    def own_rows(self, comm: Communicator, num_rows: int, p: int) -> slice | None:
        return slice(0, num_rows)

    def start_assemble(self, comm: Communicator, acts: Array, p: int) -> Pending[Array]:
        return comm.start_all_gather(acts)

    def start_return(self, comm: Communicator, grad: Array, p: int) -> Pending[Array | None]:
        return comm.start_reduce_scatter(grad)
