"""Groups of ranks, and what cannot be divided is named with the way out."""

import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import check_layout, images_per_rank, make_layout
from tests.tiny import tiny_model


def shape_of(comm, scheme):
    layout = make_layout(comm, scheme)
    parts = (layout.trunk, layout.boundary, layout.head, layout.replicas)
    return [(part.rank, part.size) for part in parts], layout.group_index, layout.describe()


def test_scheme_a_shares_one_head_among_all_ranks():
    for rank, (parts, group, line) in enumerate(run_ranks(4, lambda comm: shape_of(comm, "a"))):
        assert parts == [(rank, 4), (rank, 4), (rank, 4), (0, 1)]
        assert group == 0
        assert line == "4 ranks, trunk data parallel, head split over 4 ranks, scheme (a)"


def test_dp_gives_every_rank_a_head_of_its_own_and_joins_the_copies():
    for rank, (parts, group, line) in enumerate(run_ranks(3, lambda comm: shape_of(comm, "dp"))):
        assert parts == [(rank, 3), (0, 1), (0, 1), (rank, 3)]
        assert group == rank
        assert line == "3 ranks, data parallel in every layer"


def test_one_rank_is_called_one_rank():
    assert run_ranks(1, lambda comm: shape_of(comm, "a"))[0][2] == "1 rank, data parallel in every layer"


def test_units_that_ranks_cannot_share_are_named():
    model = MODELS["alexnet-owt"](InputSpec(224, 3, 1000))
    check_layout(model, "a", 8)
    check_layout(model, "dp", 7)
    with pytest.raises(
        ValueError, match=r"splits the 1000 units of head.fc8 over 16 ranks.* use 2 or 4 or 8 ranks, or --scheme dp"
    ):
        check_layout(model, "a", 16)
    with pytest.raises(ValueError, match=r"splits the 16 units of head.fc3 over 3 ranks.* use 1 or 2 ranks"):
        check_layout(tiny_model(), "a", 3)


def test_a_global_batch_is_shared_equally_or_refused():
    assert images_per_rank(96, 4) == 24
    with pytest.raises(ValueError, match="--global-batch 100 is not divisible by the 8 ranks; use 96 or 104"):
        images_per_rank(100, 8)
    with pytest.raises(ValueError, match="--global-batch 3 is not divisible by the 8 ranks; use 8,"):
        images_per_rank(3, 8)
