import numpy as np
import pytest

from owt_mpi.data.block_shuffle import BlockShuffle
from owt_mpi.data.sampler import PADDING, TrainPlan, ValidationPlan, epoch_order, rank_rows


def test_epoch_order_is_a_permutation() -> None:
    np.testing.assert_array_equal(np.sort(epoch_order(1, 0, 101)), np.arange(101))


def test_epoch_order_differs_by_epoch_and_seed_and_repeats() -> None:
    orders = [epoch_order(seed, epoch, 101).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert epoch_order(1, 0, 101).tolist() == orders[0]


def test_train_plan_drops_the_last_partial_batch_alone() -> None:
    plan = TrainPlan(num_samples=29, global_batch=8, seed=3)
    assert plan.steps_per_epoch == 3
    np.testing.assert_array_equal(plan.order(4), epoch_order(3, 4, 29)[:24])


@pytest.mark.parametrize("blocks", [None, BlockShuffle(2, 8)])
def test_train_plan_pads_or_wraps_the_last_batch(blocks: BlockShuffle | None) -> None:
    dropped, padded, wrapped = (TrainPlan(29, 8, 3, blocks, policy).order(4) for policy in ("drop", "pad", "wrap"))
    assert (len(dropped), len(padded), len(wrapped)) == (24, 32, 32)
    for order in (padded, wrapped):
        np.testing.assert_array_equal(order[:24], dropped)
        assert sorted(order[:29].tolist()) == list(range(29))
    assert padded[29:].tolist() == [PADDING] * 3
    np.testing.assert_array_equal(wrapped[29:], wrapped[:3])
    assert wrapped.dtype == padded.dtype == np.int64


def test_batches_that_come_out_even_are_the_same_by_any_policy() -> None:
    orders = [TrainPlan(24, 8, 3, None, policy).order(1).tolist() for policy in ("drop", "pad", "wrap")]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("blocks", [None, BlockShuffle(2, 8)])
def test_a_training_set_smaller_than_a_batch_is_padded_or_repeated(blocks: BlockShuffle | None) -> None:
    padded, wrapped = (TrainPlan(3, 8, 3, blocks, policy).order(0).tolist() for policy in ("pad", "wrap"))
    assert sorted(padded[:3]) == [0, 1, 2]
    assert padded[3:] == [PADDING] * 5
    assert wrapped == (wrapped[:3] * 3)[:8]


def test_validation_plan_visits_every_sample_once_in_natural_order() -> None:
    plan = ValidationPlan(num_samples=11, global_batch=4)
    assert plan.steps_per_epoch == 3
    assert plan.order(0).tolist() == [*range(11), PADDING]


def test_validation_plan_of_whole_batches_has_no_padding() -> None:
    assert ValidationPlan(num_samples=8, global_batch=4).order(7).tolist() == list(range(8))


def test_rank_rows_join_to_the_global_batch() -> None:
    rows = np.arange(12)
    np.testing.assert_array_equal(np.concatenate([rows[rank_rows(12, rank, 4)] for rank in range(4)]), rows)


def test_batch_that_ranks_cannot_share_is_refused_with_neighbours() -> None:
    with pytest.raises(ValueError, match="10 images cannot be shared equally by 4 ranks; try 8 or 12"):
        rank_rows(10, 0, 4)


def test_training_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"7 images, fewer than a global batch of 8; .* --last-batch pad or wrap"):
        TrainPlan(num_samples=7, global_batch=8, seed=0)


def test_empty_validation_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        ValidationPlan(num_samples=0, global_batch=8)
