"""Sums over ranks in steps that follow the machine: in each node, between the nodes, and in each node again.

leaders: each node's first rank gets the node's sum, the first ranks sum theirs, and each gives its node the result.
sharded: each rank gets the node's sum of one shard, sums it with the ranks of that shard on the other nodes, and the
ranks of the node gather the shards: the network between nodes is used by all ranks at once, each for its part.
"""

from collections.abc import Callable, Sequence

import numpy as np

from owt_mpi.comm.base import Array, Communicator, Pending, T, check_out, summand
from owt_mpi.comm.buffers import Scratch, check_message
from owt_mpi.comm.calls import Calls, engine_of


class NodeSumCalls:
    """`flat`, but that sums over ranks go by way of `node` and `across`, which joins ranks of different nodes."""

    def __init__(self, flat: Calls, node: Communicator, across: Communicator, is_sharded: bool) -> None:
        self._flat, self._is_sharded = flat, is_sharded
        self._node, self._across = engine_of(node).calls, engine_of(across).calls
        self._rank, self._size = node.rank, node.size
        self._scratch = Scratch()
        self.all_gather, self.reduce_scatter, self.all_to_all = flat.all_gather, flat.reduce_scatter, flat.all_to_all
        self.broadcast, self.reduce = flat.broadcast, flat.reduce

    def all_reduce(self, x: Array, out: Array) -> None:
        if self._size == 1:
            self._across.all_reduce(x, out)
        elif self._is_sharded:
            self._sum_shards(x, out)
        else:
            is_leader = self._rank == 0
            self._node.reduce(x, out if is_leader else None, 0)
            if is_leader:
                self._across.all_reduce(out, out)
            self._node.broadcast(out, 0)

    def _sum_shards(self, x: np.ndarray, out: np.ndarray) -> None:
        counts = shares(x.size, self._size)
        shard = self._scratch.array("shard", (counts[self._rank],), x.dtype)  # x and out may be the same memory
        self._node.reduce_scatter(x, shard, counts)
        self._across.all_reduce(shard, shard)
        self._node.all_gather(shard, out, counts)


class NodeSumCommunicator:
    """`inner` with the sums of all-reduces made by way of the nodes; an Engine too. Its duplicates share the steps.

    They may: the ranks of one process start all collectives in one order, and they run in it.
    """

    def __init__(
        self, inner: Communicator, node: Communicator, across: Communicator, is_sharded: bool, node_name: str
    ) -> None:
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._node, self._across = inner, node, across
        self._is_sharded, self._node_name = is_sharded, node_name
        self._engine = engine_of(inner)
        self.calls: Calls = NodeSumCalls(self._engine.calls, node, across, is_sharded)
        self.start_all_gather, self.start_reduce_scatter = inner.start_all_gather, inner.start_reduce_scatter
        self.start_all_gather_rows = inner.start_all_gather_rows
        self.start_reduce_scatter_rows = inner.start_reduce_scatter_rows
        self.start_broadcast, self.start_reduce = inner.start_broadcast, inner.start_reduce
        self.start_all_to_all, self.barrier = inner.start_all_to_all, inner.barrier

    def submit(self, call: Callable[[], T]) -> Pending[T]:
        return self._engine.submit(call)

    def dup(self, label: str) -> Communicator:
        inner = self._inner.dup(label)
        return NodeSumCommunicator(inner, self._node, self._across, self._is_sharded, self._node_name)

    def split(self, color: int, key: int, label: str) -> Communicator:
        return by_nodes(self._inner.split(color, key, label), self._is_sharded, self._node_name)

    def split_by_node(self, label: str) -> Communicator:
        return self._inner.split_by_node(label)

    def start_all_reduce(self, x: Array, out: Array | None = None) -> Pending[Array]:
        """Sum in three steps, in place where `out` is x; all in one turn, so that they cross while the caller works."""
        check_message(x)
        terms = summand(x)
        if out is not None:
            check_out(x, out)
        total = np.empty_like(terms) if out is None else out
        source, target = terms.reshape(-1), total.reshape(-1)
        if x.size and np.may_share_memory(x, total):
            if x.ctypes.data != total.ctypes.data:
                raise ValueError("x and out overlap in memory; pass the same array, or two that do not overlap")
            source = target

        def call() -> Array:
            self.calls.all_reduce(source, target)
            return total

        return self.submit(call)

    def all_gather_object(self, value: T) -> list[T]:
        return self._inner.all_gather_object(value)

    def all_reduce_bytes(self, x: Array) -> tuple[int, int]:
        """Return what this rank sends and receives for a sum of x, all steps together, as comm.metered counts it."""
        num_bytes, rank, size, nodes = int(x.nbytes), self._node.rank, self._node.size, self._across.size
        if not self._is_sharded:
            across = 2 * (nodes - 1) * num_bytes // nodes if rank == 0 else 0
            if size == 1:
                return across, across
            reduced = (num_bytes * (rank != 0), num_bytes * (rank != 1))
            shared = (num_bytes * (rank != size - 1), num_bytes * (rank != 0))
            return reduced[0] + across + shared[0], reduced[1] + across + shared[1]
        counts = [count * int(x.dtype.itemsize) for count in shares(x.size, size)]
        across = 2 * (nodes - 1) * counts[rank] // nodes
        sent = (num_bytes - counts[rank]) + across + (num_bytes - counts[(rank + 1) % size])
        received = (num_bytes - counts[rank - 1]) + across + (num_bytes - counts[rank])
        return sent, received


def by_nodes(comm: Communicator, is_sharded: bool, node_name: str) -> Communicator:
    """Return `comm` with sums made by way of the nodes, or as it is where that is no gain. All ranks call.

    It is none where all ranks are on one node or each has a node of its own; and shards need nodes of as many ranks.
    `node_name` is that of this rank's node.
    """
    names = comm.all_gather_object(node_name)
    nodes = list(dict.fromkeys(names))
    if why_flat(names, is_sharded):
        return comm
    node = comm.split(nodes.index(node_name), comm.rank, f"{comm.label} in its node")
    across = comm.split(node.rank if is_sharded else min(node.rank, 1), comm.rank, f"{comm.label} across nodes")
    return NodeSumCommunicator(comm, node, across, is_sharded, node_name)


def why_flat(names: Sequence[str], is_sharded: bool) -> str:
    """Return why sums of ranks on nodes of these names are not made by way of the nodes, "" where they are."""
    sizes = {names.count(name) for name in names}
    if len(set(names)) == 1:
        return "all ranks are on one node"
    if sizes == {1}:
        return "no two ranks share a node"
    if is_sharded and len(sizes) > 1:
        return f"nodes have {' or '.join(map(str, sorted(sizes)))} ranks"
    return ""


def shares(size: int, num_ranks: int) -> list[int]:
    """Return how many of `size` elements each rank's shard has: as equal as they can be."""
    return [size * (rank + 1) // num_ranks - size * rank // num_ranks for rank in range(num_ranks)]
