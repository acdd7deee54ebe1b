"""How long collectives last, by numbers made by hand."""

import pytest

from owt_mpi.planner.cluster import Cluster, Level
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.planner.collective_times import collective_seconds
from owt_mpi.planner.recording import Collective, Group

DEVICE = load_cluster("dgx-a100").device
CALL, NEAR, FAR = 1e-3, 1e-5, 1e-4


def cluster(far_link: str = "a rank", all_links: bool = False, near_link: str = "a rank", **slower: float) -> Cluster:
    """Nodes of four ranks; 8 GB/s within one, 1 GB/s between them."""
    near, far = Level("near", 4, NEAR, 8e9, near_link), Level("far", 0, FAR, 1e9, far_link)
    return Cluster("test", DEVICE, (near, far), CALL, all_links, slower)


def seconds(where: Cluster, kind: str, num_bytes: float, size: int, stride: int = 1, num_ranks: int = 16) -> float:
    return collective_seconds(where, Collective(Group("", size, stride), kind, int(num_bytes)), num_ranks)


@pytest.mark.parametrize(
    ("kind", "rounds", "gigabytes"),  # of 8 GB on four ranks of a node
    [
        ("all_gather", 2, 24),
        ("reduce_scatter", 2, 6),
        ("all_reduce", 6, 12),
        ("all_to_all", 3, 6),
        ("all_gather_rows", 2, 6),
        ("all_gather_rows of some", 2, 8),
        ("reduce_scatter_rows of some", 2, 8),
        ("broadcast", 2, 8),
        ("reduce", 2, 8),
    ],
)
def test_within_a_node_rounds_and_bytes_add_up(kind, rounds, gigabytes):
    assert seconds(cluster(), kind, 8e9, 4) == pytest.approx(CALL + rounds * NEAR + gigabytes / 8, rel=1e-12)


def test_a_short_sum_goes_by_the_tree_and_a_long_one_by_the_ring():
    assert seconds(cluster(), "all_reduce", 8, 64, num_ranks=64) == pytest.approx(CALL + 12 * FAR, rel=1e-3)
    ring = CALL + 126 * FAR + 2 * 63 / 64 * 8
    assert seconds(cluster(), "all_reduce", 8e9, 64, num_ranks=64) == pytest.approx(ring)


@pytest.mark.parametrize(
    ("where", "size", "stride", "rate"),
    [
        (cluster(), 16, 1, 1e9),  # one ring passes from node to node by one rank's link
        (cluster(all_links=True), 16, 1, 4e9),  # four rings by those of all four ranks
        (cluster("a unit"), 16, 1, 1e9),  # the node's only link
        (cluster("a unit", all_links=True), 16, 1, 1e9),
        (cluster(), 4, 4, 1e9),  # of four groups beside each other, each has a rank and a link in each node
        (cluster("a unit"), 4, 4, 0.25e9),  # which share the node's
        (cluster("a unit"), 8, 2, 0.5e9),  # two groups with two ranks in a node
        (cluster("a unit"), 4, 1, 8e9),  # within a node
        (cluster(near_link="a unit"), 4, 1, 2e9),  # on a bus, which four ranks share
    ],
)
def test_the_slowest_link_on_the_way_and_its_sharers_give_the_rate(where, size, stride, rate):
    received = 8e9 * (size - 1) / size
    assert seconds(where, "reduce_scatter", 8e9, size, stride) == pytest.approx(CALL + received / rate, rel=1e-3)


def test_all_to_all_sends_each_part_by_the_links_of_its_level():
    near, far = 3 / 16 * 8 / 8, 12 / 16 * 8 / 1
    assert seconds(cluster(), "all_to_all", 8e9, 16) == pytest.approx(CALL + 15 * FAR + near + far)
    assert seconds(cluster("a unit"), "all_to_all", 8e9, 16) == pytest.approx(CALL + 15 * FAR + near + 4 * far)


def test_a_kind_that_is_slower_here_is():
    assert seconds(cluster(all_reduce=3.0), "all_reduce", 8e9, 4) == pytest.approx(CALL + 3 * (6 * NEAR + 1.5))
    assert seconds(cluster(all_gather=3.0), "all_gather_rows", 8e9, 4) == pytest.approx(CALL + 3 * (2 * NEAR + 0.75))


def test_sums_by_level_cross_between_nodes_once_for_each_rank_of_a_node():
    where = Cluster(**{**vars(cluster()), "sums_by_level": True})
    near, far = 2 * (3 / 4 * 8 / 8 + 2 * NEAR), 2 * (3 / 4 * 2 / 1 + 2 * FAR)
    assert seconds(where, "all_reduce", 8e9, 16) == pytest.approx(CALL + near + far)
    shared = Cluster(**{**vars(cluster("a unit")), "sums_by_level": True})
    far = 2 * (3 / 4 * 2 / 0.25 + 2 * FAR)
    assert seconds(shared, "all_reduce", 8e9, 16) == pytest.approx(CALL + near + far)
