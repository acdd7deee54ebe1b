"""A rank whose weights are not those of the others any more is found and named, in trunk and head, in any type."""

import pytest

from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.drift import DriftError, check_same_weights
from tests.tiny import GLOBAL_BATCH, global_batch, part_of, tiny_model

FC4 = "head.fc4.weight"


def errors(plan, name=None, ranks=(), precision="fp32", trunk_sync="all-reduce"):
    """Return what each rank is told after two steps, and a flipped bit in parameter `name` of the `ranks`."""

    def fn(comm):
        computed = compute_dtype(precision, "float32")
        backend = select_backend("reference", computed)[0]
        config = Config(parallel=ParallelOptions(precision=precision, trunk_sync=trunk_sync, bucket_mib=0.001))
        layout = make_layout(carrying_halves(comm, computed), plan)
        trainer = Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)
        for step in range(2):
            trainer.train_step(part_of(global_batch(step, computed), comm.rank, comm.size), step)
        for parameter in trainer.trunk.parameters() + trainer.head.parameters():
            if parameter.name == name and comm.rank in ranks:
                bits = parameter.data.reshape(-1).view(f"u{parameter.dtype.itemsize}")
                bits[len(bits) // 2] ^= 1
        try:
            check_same_weights(trainer, 2)
        except DriftError as error:
            return str(error)
        return None

    return run_ranks(plan.num_ranks, fn)


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("plan", [Plan(1), Plan(4, "dp"), Plan(4, "c"), Plan(4, "d", group_size=2)], ids=str)
def test_ranks_that_train_stay_the_same(plan, precision, trunk_sync):
    assert errors(plan, precision=precision, trunk_sync=trunk_sync) == [None] * plan.num_ranks


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_bit_of_the_trunk_names_parameter_and_rank_on_all_ranks(precision):
    told = errors(Plan(4, "c"), "trunk.conv2.bias", [2], precision)
    assert len(set(told)) == 1
    assert "any more after step 2: trunk.conv2.bias differs from the others on rank 2 (host " in told[0]


@pytest.mark.parametrize("plan", [Plan(4, "dp"), Plan(8, "c", group_size=2)], ids=str)
def test_copies_of_the_head_are_compared_with_their_like(plan):
    assert f"{FC4} differs from the others on rank 3 (host " in errors(plan, FC4, [3])[0]


def test_parts_of_a_head_that_nobody_else_has_differ_rightly():
    assert errors(Plan(4, "c"), FC4, [3]) == [None] * 4


def test_of_two_ranks_nobody_can_tell_who_is_right():
    told = errors(Plan(2, "c"), "trunk.conv1.weight", [1])
    assert "trunk.conv1.weight differs between ranks 0 (host " in told[0]
    assert ", 1 (host " in told[0]
