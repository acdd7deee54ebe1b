"""How ranks that hold the same weights keep them the same: the choice that `--trunk-sync` makes."""

from typing import Any, Literal

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend
from owt_mpi.comm.base import Communicator
from owt_mpi.parallel.grad_sync import AllReduceSync, GradSync, MakeOptimizer
from owt_mpi.parallel.sharded_sync import ShardedSync
from owt_mpi.parallel.wire_format import WireDtype, wire_itemsize

TrunkSync = Literal["all-reduce", "sharded"]


def make_weight_sync(
    kind: TrunkSync,
    parameters: list[Parameter],
    comm: Communicator,
    backend: Backend,
    make_optimizer: MakeOptimizer,
    bucket_bytes: int,
    wire_dtype: WireDtype = "auto",
) -> GradSync[Any]:
    """Return what synchronises and updates `parameters`, which have values. One rank just updates them."""
    sync = ShardedSync if kind == "sharded" and comm.size > 1 else AllReduceSync
    return sync(parameters, comm, backend, make_optimizer, bucket_bytes, wire_dtype)


def sync_bytes(
    num_weights: int, num_ranks: int, kind: TrunkSync, wire_dtype: WireDtype, dtype: np.dtype
) -> tuple[int, int]:
    """Return what a rank receives in a step to keep `num_weights` in step: bytes of gradients, and of new weights.

    By ring collectives, without the zeros that fill up buckets.
    """
    crossing, whole = wire_itemsize(wire_dtype, dtype), dtype.itemsize
    if kind == "all-reduce":
        return 2 * (num_ranks - 1) * num_weights * crossing // num_ranks, 0
    received = (num_ranks - 1) * num_weights
    return received * crossing // num_ranks, received * whole // num_ranks
