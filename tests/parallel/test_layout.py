"""Groups of ranks, and what cannot be divided is named with the way out."""

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan, group_order, images_per_rank, make_layout
from tests.tiny import tiny_model


def shape_of(comm, plan):
    layout = make_layout(comm, plan)
    parts = (layout.trunk, layout.boundary, layout.head, layout.replicas)
    return [(part.rank, part.size) for part in parts], layout.members, layout.describe()


def test_schemes_share_one_head_among_all_ranks():
    for rank, (parts, members, line) in enumerate(run_ranks(4, lambda comm: shape_of(comm, Plan(4, "a")))):
        assert parts == [(rank, 4), (rank, 4), (rank, 4), (0, 1)]
        assert members == (0, 1, 2, 3)
        assert line == "4 ranks, trunk data parallel, head split over 4 ranks, scheme (a)"


def test_dp_gives_every_rank_a_head_of_its_own_and_joins_the_copies():
    for rank, (parts, members, line) in enumerate(run_ranks(3, lambda comm: shape_of(comm, Plan(3, "dp")))):
        assert parts == [(rank, 3), (0, 1), (0, 1), (rank, 3)]
        assert members == (rank,)
        assert line == "3 ranks, data parallel in every layer"


def test_groups_share_a_head_each_and_join_the_copies_of_every_part():
    plan = Plan(6, "d", group_size=3)
    for rank, (parts, members, line) in enumerate(run_ranks(6, lambda comm: shape_of(comm, plan))):
        group, member = divmod(rank, 3)
        assert parts == [(rank, 6), (member, 3), (member, 3), (group, 2)]
        assert members == (3 * group, 3 * group + 1, 3 * group + 2)
        assert line == "6 ranks, trunk data parallel, head split over each group of 3, scheme (d)"


ROUND_ROBIN = ["n1", "n2", "n3", "n1", "n2", "n3", "n1", "n2", "n3", "n1", "n2", "n3"]


@pytest.mark.parametrize(
    ("hosts", "group_size", "groups"),
    [
        (ROUND_ROBIN, 4, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
        (ROUND_ROBIN, 2, [[0, 3], [6, 9], [1, 4], [7, 10], [2, 5], [8, 11]]),
        (ROUND_ROBIN, 12, [list(range(12))]),
        (ROUND_ROBIN, 1, [[rank] for rank in range(12)]),
        (["n2", "n2", "n1", "n1"], 2, [[0, 1], [2, 3]]),
        (["n1", "n2", "n2", "n1"], 2, [[0, 3], [1, 2]]),
    ],
)
def test_groups_do_not_straddle_nodes_that_they_divide(hosts, group_size, groups):
    order = group_order(hosts, group_size)
    assert [order[start : start + group_size] for start in range(0, len(order), group_size)] == groups


def test_groups_join_ranks_of_one_node_where_ranks_are_dealt_out_to_nodes():
    def fn(comm):
        layout = make_layout(comm, Plan(6, "c", group_size=3), ["n1", "n2"][comm.rank % 2])
        rows = layout.batch_rows(np.array([0, 3, 5]), num_rows=2).tolist()
        replicas = layout.replicas.all_gather_object(comm.rank)
        return layout.boundary.all_gather_object(comm.rank), list(layout.members), replicas, rows

    for rank, (group, members, replicas, rows) in enumerate(run_ranks(6, fn)):
        node, place = rank % 2, rank // 2
        assert group == members == [node, node + 2, node + 4]
        assert replicas == [2 * place, 2 * place + 1]
        assert rows == [2 * node, 2 * (node + 2) + 1, 2 * (node + 4) + 1]


def test_rows_of_a_group_are_those_of_its_members():
    def rows(comm):
        return make_layout(comm, Plan(4, "c", group_size=2)).batch_rows(np.array([0, 1, 4, 3]), num_rows=3).tolist()

    assert run_ranks(4, rows) == [[0, 1, 4, 3]] * 2 + [[6, 7, 10, 9]] * 2


def test_one_rank_is_called_one_rank():
    assert run_ranks(1, lambda comm: shape_of(comm, Plan(1, "c")))[0][2] == "1 rank, data parallel in every layer"


ALEXNET = MODELS["alexnet-owt"](InputSpec(224, 3, 1000))


@pytest.mark.parametrize(
    ("plan", "images"),
    [
        (Plan(8), 128),
        (Plan(7, "dp"), 5),
        (Plan(32, "c", group_size=8), 128),
        (Plan(8, "b"), 7),
        (Plan(8, "c", senders=2), 6),
        (Plan(8, "d"), 8),
    ],
)
def test_plans_that_come_out_even_pass(plan, images):
    plan.check(ALEXNET, images)


@pytest.mark.parametrize(
    ("plan", "images", "message"),
    [
        (
            Plan(16),
            128,
            r"1000 units of head.fc8 over 16 .* --head-group-size 1 or 2 or 4 or 8, or --scheme dp",
        ),
        (Plan(8), 100, "scheme 'c' needs images-per-rank divisible by the 8 ranks .* 100 images; try 96 or 104"),
        (Plan(8, "d"), 4, "4 images; try 8"),
        (Plan(8, "c", senders=4), 6, "divisible by the 4 ranks that send in a pass: 6 images; try 4 or 8"),
        (Plan(8, "c", senders=3), 6, "--senders 3 needs scheme b or c, .*8 ranks .*: 1 or 2 or 4 or 8"),
        (Plan(8, "a", senders=2), 6, "--senders 2 needs scheme b or c"),
        (Plan(6, "a", group_size=4), 6, "--head-group-size 4 does not divide the 6 ranks .* use 1 or 2 or 3 or 6"),
        (Plan(4, "dp", group_size=2), 6, "--head-group-size 2 splits the head, which scheme 'dp' does not"),
    ],
)
def test_plans_that_do_not_are_named_with_the_way_out(plan, images, message):
    with pytest.raises(ValueError, match=message):
        plan.check(ALEXNET, images)


def test_scheme_d_must_divide_the_trunks_features():
    features = tiny_model().num_features
    assert features == 24
    with pytest.raises(ValueError, match="splits the 24 features of the trunk over 16 ranks"):
        Plan(16, "d").check(tiny_model(), 16)


def test_a_global_batch_is_shared_equally_or_refused():
    assert images_per_rank(96, 4) == 24
    with pytest.raises(ValueError, match="--global-batch 100 is not divisible by the 8 ranks; use 96 or 104"):
        images_per_rank(100, 8)
    with pytest.raises(ValueError, match="--global-batch 3 is not divisible by the 8 ranks; use 8,"):
        images_per_rank(3, 8)
