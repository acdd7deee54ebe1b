"""The schemes: how the examples at the boundary of trunk and head reach the head's ranks, pass by pass.

`comm` is the group of K ranks that share one head, each with `num_rows` examples (n) of its own; the group's batch is
their concatenation in rank order, K n rows, each with F features.

| scheme | passes | assemble(p)                                  | return(p)                               |
|--------|--------|----------------------------------------------|-----------------------------------------|
| (a)    | 1      | all-gather of all rows: K n x F              | reduce-scatter                          |
| (b)    | K      | broadcast of rank p's rows: n x F            | reduce to rank p                        |
| (c)    | K      | all-gather of n/K rows of each rank: n x F   | reduce-scatter                          |
| (d)    | K      | all-to-all of them over features: n x F/K    | all-to-all back; FC layers split inputs |

(a)-(c) are the paper's (section 4), (d) is ours. (b) and (c) are the ends of one scheme: s of the K ranks send n/s
rows each in a pass, s = 1 is (b) and s = K is (c).
"""

from typing import Protocol

import numpy as np

from owt_mpi.backends.base import Array
from owt_mpi.comm.base import Communicator, Pending


class Scheme(Protocol):
    """One way to cut the group's batch into head passes. `start_return` is the adjoint of `start_assemble`.

    With `splits_inputs`, a rank gets its block of the features of a pass's rows, and FC layers are split by inputs;
    else it gets all features, and they are split by outputs.
    """

    name: str
    splits_inputs: bool

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
        """Start to collect the activations of pass p from their ranks. `acts` are this rank's, (n, F)."""
        ...

    def start_return(self, comm: Communicator, grad: Array, p: int) -> Pending[Array | None]:
        """Start to send pass p's gradient of the assembled activations back, summed over ranks, to their ranks."""
        ...


class AllAtOnce:
    """(a): every rank gets all K n rows, and the head runs one pass. On a group of one rank: no exchange."""

    name = "a"
    splits_inputs = False

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


class Senders:
    """(b), (c) and what lies between: in a pass, `senders` (s) ranks send n/s rows each to all.

    The ranks take turns, s at a time; each has s passes to send its n rows.
    """

    splits_inputs = False

    def __init__(self, senders: int, name: str = "") -> None:
        self.senders, self.name = senders, name or f"{senders} senders"

    def num_passes(self, size: int) -> int:
        return size

    def group_rows(self, size: int, num_rows: int, p: int) -> np.ndarray:
        first_rank, chunk = p // self.senders * self.senders, p % self.senders
        ranks = np.arange(first_rank, first_rank + self.senders)
        rows = np.arange(chunk * num_rows // self.senders, (chunk + 1) * num_rows // self.senders)
        return np.asarray((ranks[:, None] * num_rows + rows).ravel())

    def own_rows(self, comm: Communicator, num_rows: int, p: int) -> slice | None:
        if comm.rank // self.senders != p // self.senders:
            return None
        chunk = p % self.senders
        return slice(chunk * num_rows // self.senders, (chunk + 1) * num_rows // self.senders)

    def start_assemble(self, comm: Communicator, acts: Array, p: int) -> Pending[Array]:
        own = self.own_rows(comm, len(acts), p)
        return comm.start_all_gather_rows(acts[:0] if own is None else acts[own], self._rows_sent(comm, len(acts), p))

    def start_return(self, comm: Communicator, grad: Array, p: int) -> Pending[Array | None]:
        return comm.start_reduce_scatter_rows(grad, self._rows_sent(comm, len(grad), p))

    def _rows_sent(self, comm: Communicator, num_rows: int, p: int) -> list[int]:
        """Return how many rows each rank sends in pass p."""
        return [
            num_rows // self.senders if rank // self.senders == p // self.senders else 0 for rank in range(comm.size)
        ]


class InputSplit:
    """(d): each pass has n/K rows of each rank, as in (c), but a rank gets just its block of their features."""

    name = "d"
    splits_inputs = True

    def num_passes(self, size: int) -> int:
        return size

    def group_rows(self, size: int, num_rows: int, p: int) -> np.ndarray:
        return Senders(size).group_rows(size, num_rows, p)

    def own_rows(self, comm: Communicator, num_rows: int, p: int) -> slice | None:
        return slice(p * num_rows // comm.size, (p + 1) * num_rows // comm.size)

    def start_assemble(self, comm: Communicator, acts: Array, p: int) -> Pending[Array]:
        return comm.start_all_to_all(acts[self.own_rows(comm, len(acts), p)], split_axis=1, concat_axis=0)

    def start_return(self, comm: Communicator, grad: Array, p: int) -> Pending[Array | None]:
        return comm.start_all_to_all(grad, split_axis=0, concat_axis=1)
