"""What ranks exchange in a training step, and the least time it takes on a link.

Bytes are those of `owt_mpi.summary`, what a rank receives by ring or pairwise collectives. On links that all work at
once, each in both directions, a ring all-gather or reduce-scatter of K blocks and a pairwise all-to-all last as long as
a rank needs to receive its bytes: bytes / rate. A ring all-reduce is two of them. Start-up times of messages are not
counted, nor is anything hidden: in a step, most of the trunk's gradients cross under its backward pass, and in (b), (c)
and (d) what belongs to one pass crosses under the head's work on another.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.nn.model import Model
from owt_mpi.parallel.layout import Layout, Plan
from owt_mpi.planner.devices import Link
from owt_mpi.planner.kernel import PRECISIONS, PrecisionName
from owt_mpi.planner.recording import Group, RecordingCommunicator
from owt_mpi.summary import BOUNDARY_BYTES, summarise


@dataclass(frozen=True)
class Exchange:
    """One part of a step's exchange: bytes the mean rank receives, and bytes that cross one after the other.

    The two differ where some links are idle while others work.
    """

    part: str
    received_bytes: int
    serial_bytes: float

    def seconds(self, link: Link) -> float:
        """Return the time on `link` with nothing hidden."""
        return self.serial_bytes / link.bytes_per_second


def layout_of(plan: Plan, make: Callable[[Group], Communicator] = RecordingCommunicator) -> Layout:
    """Return the layout of rank 0 under `plan`, to work out costs with; `make` gives communicators that join nobody.

    Ranks are numbered node by node, so that groups of the head are neighbours (see parallel.layout.group_order).
    """
    size, shared = plan.num_ranks, plan.ranks_sharing_head
    return Layout(
        scheme=plan.make_scheme(),
        members=tuple(range(shared)),
        world=make(Group("world", size)),
        trunk=make(Group("trunk", size)),
        boundary=make(Group("boundary", shared)),
        head=make(Group("head", shared)),
        replicas=make(Group("replicas", size // shared, shared)),
    )


def exchanges(model: Model, layout: Layout, images_per_rank: int, precision: PrecisionName) -> list[Exchange]:
    """Return the parts of the exchange of a step on `layout`, all numbers crossing in the type of `precision`."""
    dtype = np.dtype(f"f{PRECISIONS[precision]}")
    received = summarise(model, layout, images_per_rank, dtype).received_bytes
    factors = {BOUNDARY_BYTES: _idle_factor(layout, images_per_rank)}
    return [Exchange(part, size, size * factors.get(part, 1.0)) for part, size in received.items()]


def exchange_seconds(parts: Iterable[Exchange], link: Link) -> float:
    """Return the time of all parts on `link`, one after the other."""
    return sum(part.seconds(link) for part in parts)


def _idle_factor(layout: Layout, images_per_rank: int) -> float:
    """Return how many times longer the boundary takes than if all links worked all the time.

    Where only some of the K ranks send in a pass, as in (b), a rank that does not receives all rows of the pass while
    the mean rank receives (K-1)/K of them. The passes are pipelined along the ring.
    """
    scheme, size = layout.scheme, layout.boundary.size
    senders = {int(row) // images_per_rank for row in scheme.group_rows(size, images_per_rank, 0)}
    return size / (size - 1) if len(senders) < size else 1.0
