import numpy as np
import pytest

from benchmarks.shuffle import Options, Row, measure_order
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.config import Config, DataOptions
from owt_mpi.data.block_shuffle import BlockShuffle
from owt_mpi.data.readers import SyntheticReader
from owt_mpi.data.sampler import TrainPlan, rank_rows
from owt_mpi.training.data import make_loaders

BLOCKS = BlockShuffle(block=5, buffer=60)
NUM_SAMPLES, BATCH = 1009, 12  # neither is a multiple of the block, nor is one of the other
FULL = 84 * BATCH  # 1 is left out


def test_every_sample_comes_at_most_once_and_full_batches_miss_the_remainder_alone() -> None:
    order = BLOCKS.order(1, 0, NUM_SAMPLES, BATCH)
    assert order.shape == (FULL,)
    assert order.dtype == np.int64
    assert len(np.unique(order)) == FULL
    assert 0 <= order.min() <= order.max() < NUM_SAMPLES


@pytest.mark.parametrize(("num_samples", "batch"), [(12, 12), (13, 1), (60, 7), (64, 64), (1000, 13), (1024, 16)])
def test_any_number_of_samples_and_rows_is_dealt_out_once(num_samples: int, batch: int) -> None:
    order = BLOCKS.order(3, 2, num_samples, batch)
    assert len(np.unique(order)) == len(order) == num_samples // batch * batch


def test_order_is_a_function_of_seed_and_epoch() -> None:
    plans = [TrainPlan(NUM_SAMPLES, BATCH, seed, BLOCKS) for seed in (1, 2)]
    orders = [plan.order(epoch).tolist() for plan in plans for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert TrainPlan(NUM_SAMPLES, BATCH, 1, BLOCKS).order(0).tolist() == orders[0]


def test_sample_left_out_differs_by_epoch() -> None:
    left_out = {
        sample
        for epoch in range(20)
        for sample in set(range(NUM_SAMPLES)).difference(BLOCKS.order(1, epoch, NUM_SAMPLES, BATCH).tolist())
    }
    assert len(left_out) == 20


def test_rank_reads_runs_of_blocks_in_the_steps_that_are_mixed() -> None:
    order = BLOCKS.order(1, 0, NUM_SAMPLES, BATCH).reshape(-1, BATCH)
    steps = BLOCKS.mixed_steps(BATCH)
    assert (steps, BLOCKS.num_lanes(BATCH)) == (5, 3)
    for rank in range(3):
        mine = np.sort(order[:steps, rank_rows(BATCH, rank, 3)], axis=None)
        assert (np.diff(mine) > 1).sum() + 1 <= 6  # 4 blocks, one of them cut, one around the end
        assert not np.array_equal(mine, order[:steps, rank_rows(BATCH, rank, 3)].reshape(-1))


def test_lanes_divide_the_rows() -> None:
    assert [BlockShuffle(64, 16384).num_lanes(batch) for batch in (1, 96, 509, 1024)] == [1, 48, 1, 64]


def test_rows_of_a_batch_come_from_all_over_the_storage() -> None:
    row = measure(BlockShuffle(16, 4096))
    assert row.distance > 0.8
    assert abs(row.rank_correlation) < 0.05
    assert row.label_runs > 0.8
    assert row.batch_spread < 2
    assert row.samples_a_read > 12


def test_full_shuffle_measures_as_random_as_independent_draws() -> None:
    row = measure(None)
    assert row.distance == pytest.approx(1, abs=0.02)
    assert row.label_runs == pytest.approx(1, abs=0.01)
    assert row.batch_spread == pytest.approx(1, abs=0.05)
    assert row.storage_neighbours == pytest.approx(1, abs=0.2)
    assert abs(row.rank_correlation) < 0.02


def test_training_follows_the_options() -> None:
    reader = SyntheticReader(100, (224, 224, 1), 7, seed=1)
    for options, blocks in (
        (DataOptions(data="synthetic"), None),
        (DataOptions(data="synthetic", shuffle="block", shuffle_block=3, shuffle_buffer=24), BlockShuffle(3, 24)),
    ):
        data = make_loaders(Config(data=options), reader, None, 10, SerialCommunicator(), ReferenceBackend())
        assert data.train.plan == TrainPlan(100, 10, Config().run.seed, blocks)


@pytest.mark.parametrize(
    ("block", "buffer", "message"),
    [(0, 64, "shuffle-block is 0"), (64, 255, "at least 4 blocks of 64 samples to mix them; make it 256 or more")],
)
def test_sizes_that_cannot_mix_are_refused(block: int, buffer: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockShuffle(block, buffer)


def measure(blocks: BlockShuffle | None) -> Row:
    return measure_order(Options(images=30_011, classes=100, global_batch=128, ranks=4), blocks)
