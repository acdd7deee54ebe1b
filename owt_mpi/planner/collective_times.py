"""How long a collective lasts on a cluster, by the algorithm that libraries use for its kind.

For K ranks of a group, x of b bytes a rank:

| collective                          | rounds                                 | bytes that pass each rank's link |
|-------------------------------------|----------------------------------------|----------------------------------|
| all_gather, reduce_scatter          | ring K - 1, or doubling log2 K         | (K-1) b, (K-1)/K b               |
| all_reduce                          | ring 2 (K - 1), or tree 2 log2 K       | 2 (K-1)/K b, or 2 b              |
| all_to_all                          | pairwise K - 1                         | (K-1)/K b, a part at each level  |
| rows that some ranks give or get    | pipelined ring, as all_gather          | all rows                         |
| broadcast, reduce                   | tree log2 K                            | b                                |

The time is call + rounds times the latency of the outermost level that the group spans + bytes over the bottleneck. Of
ring and tree, or ring and doubling, the faster one counts. Sums by level (comm.node_sums) are b within the units of the
innermost level, 2 (N-1)/N of a rank's shard across N units of each further one, and 2 log2 N rounds. Groups of one kind
run at once, one beside the other, and share what links they share.
"""

from math import ceil, log2

from owt_mpi.planner.cluster import Cluster, Level
from owt_mpi.planner.recording import Collective, Group


def collective_seconds(cluster: Cluster, collective: Collective, num_ranks: int) -> float:
    """Return the time from when the last rank of the group comes to the end. `num_ranks` are in the training."""
    group, (kind, *some) = collective.group, collective.kind.split(" of ")
    kind = kind.removesuffix("_rows")
    size, spans = group.size, _Spans(cluster, group, num_ranks)
    rounds, tree_rounds = size - 1, ceil(log2(size))
    num_bytes = collective.num_bytes
    is_rows = "_rows" in collective.kind
    if kind == "all_gather":
        whole = num_bytes if is_rows else size * num_bytes
        crossing = whole if some else whole * (size - 1) / size
        ways = [(rounds, crossing * spans.ring), (tree_rounds, crossing * spans.doubling)]
    elif kind == "reduce_scatter":
        crossing = num_bytes if some else num_bytes * (size - 1) / size
        ways = [(rounds, crossing * spans.ring), (tree_rounds, crossing * spans.doubling)]
    elif kind == "all_reduce" and cluster.sums_by_level:
        ways = [(0, spans.by_level(num_bytes))]
    elif kind == "all_reduce":
        ways = [
            (2 * rounds, 2 * (size - 1) / size * num_bytes * spans.ring),
            (2 * tree_rounds, 2 * num_bytes * spans.ring),
        ]
    elif kind == "all_to_all":
        ways = [(rounds, num_bytes * spans.pairwise)]
    else:
        ways = [(tree_rounds, num_bytes * spans.ring)]
    fastest = min(num_rounds * spans.latency + moving for num_rounds, moving in ways)
    return cluster.call_seconds + fastest * cluster.slower.get(kind, 1.0)


class _Spans:
    """What a group has of a cluster's links: seconds a byte by each algorithm, and the latency of a round."""

    def __init__(self, cluster: Cluster, group: Group, num_ranks: int) -> None:
        self.latency = self.ring = self.doubling = self.pairwise = 0.0
        self._steps: list[tuple[int, int, float, float]] = []  # units joined, shards, seconds a byte, latency
        below, members_below = 1, 1
        for level in cluster.levels:
            ranks = min(level.ranks or num_ranks, num_ranks)
            members = min(group.size, max(1, ranks // group.stride))
            if members > members_below:
                active = min(below, num_ranks)
                beside = max(1, active // members_below)  # groups of a unit whose ranks are all at work
                links = members_below if cluster.uses_all_links else 1
                self.latency = max(self.latency, level.latency_seconds)
                self.ring = max(self.ring, _ring(level, links, beside, below, ranks))
                everyone = 1 / level.bytes_per_second * _sharers(level, below, ranks)
                self.doubling = max(self.doubling, everyone)
                self.pairwise += everyone * (members - members_below) / group.size
                self._steps.append((members // members_below, members_below, everyone, level.latency_seconds))
            below, members_below = ranks, members

    def by_level(self, num_bytes: int) -> float:
        """Return the seconds of a sum that each level makes of shards, scattered on the way up, gathered back down."""
        return sum(
            2 * ((units - 1) / units * num_bytes / shards * byte_seconds + min(units - 1, ceil(log2(units))) * latency)
            for units, shards, byte_seconds, latency in self._steps
        )


def _ring(level: Level, links: int, beside: int, below: int, ranks: int) -> float:
    """Return the seconds a byte of a ring through the units of the level below, `beside` as many others."""
    if level.link == "a rank":
        return 1 / (links * level.bytes_per_second)
    return (ranks if below == 1 else beside) / level.bytes_per_second


def _sharers(level: Level, below: int, ranks: int) -> int:
    """Return how many ranks use one link where all ranks send at once. The first level's unit is a bus of all."""
    if level.link == "a rank":
        return 1
    return ranks if below == 1 else below
