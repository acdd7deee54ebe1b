"""Which block of which global array a rank keeps: together the ranks keep every element once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend, Shape
from owt_mpi.comm.base import Communicator


@dataclass(frozen=True)
class Part:
    """The block `values` of the global array `name`, whose first element is element `start` of it. Owns its values."""

    name: str
    global_shape: Shape
    start: tuple[int, ...]
    values: np.ndarray


def own_parts(
    kind: str,
    arrays: Iterable[tuple[Parameter, Array]],
    group: Communicator | None,
    replicas: Communicator,
    backend: Backend,
) -> Iterator[Part]:
    """Yield copies of what this rank keeps of `arrays`, one of the shape of each parameter, named `kind`/parameter.

    The ranks of `group` have the shards of one array, or equal arrays where a parameter is not sharded; None where
    nothing is. The ranks of `replicas` have equal arrays: each keeps about as many rows.
    """
    for parameter, array in arrays:
        if parameter.shard is None and group is not None and group.rank > 0:
            continue
        num_rows = array.shape[0]
        first, stop = (num_rows * rank // replicas.size for rank in (replicas.rank, replicas.rank + 1))
        if first == stop:
            continue
        start = [0] * array.ndim
        if parameter.shard is not None:
            start[parameter.shard.axis] = parameter.shard.index * array.shape[parameter.shard.axis]
        start[0] += first
        rows = array[first:stop]
        values = np.array(rows) if backend.device is None else backend.to_host(rows)
        yield Part(f"{kind}/{parameter.name}", parameter.global_shape, tuple(start), values)
