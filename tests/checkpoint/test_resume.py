"""Training that was stopped and goes on from a checkpoint is the training that was not stopped, on other ranks too."""

from dataclasses import replace

import numpy as np
import pytest

from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.checkpoint.reader import Checkpoint, verify
from owt_mpi.checkpoint.saver import CheckpointSaver, Snapshot
from owt_mpi.checkpoint.weights import whole_parameter
from owt_mpi.comm.half import carrying_halves
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.resume import restore_momentum, snapshot_parts
from tests.tiny import GLOBAL_BATCH, global_batch, largest_difference, part_of, tiny_model

STOP, END = 5, 9


def train(folder, plan, first, last, trunk_sync="all-reduce", precision="fp32", start=None):
    """Train steps first .. last - 1 and checkpoint; return rank 0's global parameters."""

    def fn(comm):
        computed = compute_dtype(precision, "float32")
        backend = select_backend("reference", computed)[0]
        config = Config(
            optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH),
            parallel=ParallelOptions(bucket_mib=0.001, trunk_sync=trunk_sync, precision=precision),
        )
        layout = make_layout(carrying_halves(comm, computed), plan)
        if start is None:
            trainer = Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH)
        else:
            with Checkpoint(start) as checkpoint:
                trainer = Trainer(config, tiny_model(), layout, backend, GLOBAL_BATCH, checkpoint.weights)
                restore_momentum(trainer, checkpoint)
        for step in range(first, last):
            trainer.train_step(part_of(global_batch(step, computed), comm.rank, comm.size), step)
        saver = CheckpointSaver(folder, comm, keep=9, config={}, program="test")
        saver.save(Snapshot(last, snapshot_parts(trainer), {}))
        saver.finish()
        assert saver.messages() == []
        trainer.collect_masters()
        parameters = trainer.trunk.parameters() + trainer.head.parameters()
        return {p.name: np.array(whole_parameter(p, layout.head)) for p in parameters}

    return run_ranks(plan.num_ranks, fn)[0]


PLANS = [Plan(1), Plan(2, "dp"), Plan(4, "a"), Plan(4, "c"), Plan(4, "d"), Plan(4, "b", group_size=2)]


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_going_on_with_as_many_ranks_gives_the_same_bits(tmp_path, plan, trunk_sync):
    undisturbed = train(tmp_path / "a", plan, 0, END, trunk_sync)
    train(tmp_path / "b", plan, 0, STOP, trunk_sync)
    start = tmp_path / "b" / "latest"
    assert verify(start).step == STOP
    resumed = train(tmp_path / "c", plan, STOP, END, trunk_sync, start=start)
    for name, values in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_master_weights_go_on_before_rounding(tmp_path, precision):
    plan = Plan(2, "c")
    undisturbed = train(tmp_path / "a", plan, 0, END, "sharded", precision)
    train(tmp_path / "b", plan, 0, STOP, "sharded", precision)
    resumed = train(tmp_path / "c", plan, STOP, END, "sharded", precision, tmp_path / "b" / "latest")
    for name, values in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)


@pytest.mark.parametrize("plan", [Plan(2, "d"), Plan(1), Plan(8, "d", group_size=2)], ids=str)
def test_going_on_with_other_ranks_and_scheme_stays_close(tmp_path, plan):
    undisturbed = train(tmp_path / "a", Plan(4, "c"), 0, END)
    train(tmp_path / "b", Plan(4, "c"), 0, STOP)
    resumed = train(tmp_path / "c", plan, STOP, END, "sharded", start=tmp_path / "b" / "latest")
    assert largest_difference(resumed, undisturbed) < 1e-5


def test_any_number_of_ranks_writes_the_same_global_arrays(tmp_path):
    arrays = {}
    for plan in PLANS:
        train(tmp_path / str(plan.num_ranks), plan, 0, 0)
        with Checkpoint(tmp_path / str(plan.num_ranks) / "latest") as checkpoint:
            arrays[plan] = {name: dataset[...] for name, dataset in checkpoint.weights.items()}
            assert all(not dataset[...].any() for dataset in checkpoint.momentum.values())
            assert checkpoint.momentum.keys() == checkpoint.weights.keys()
    alone = arrays.pop(PLANS[0])
    for plan, shared in arrays.items():
        assert shared.keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(shared[name], values, err_msg=f"{name}, {plan}")


def test_another_model_is_refused_by_name(tmp_path):
    train(tmp_path, Plan(1), 0, 0)
    model = tiny_model()
    model.head.layers.pop("fc4")
    with Checkpoint(tmp_path / "latest") as checkpoint:
        weights = {**checkpoint.weights}
        layout = run_ranks(1, lambda comm: make_layout(comm, Plan(1)))[0]
        backend = select_backend("reference", np.dtype(np.float32))[0]
        with pytest.raises(ValueError, match=r"the model has no head.fc4.bias and 1 more; give the --model"):
            Trainer(Config(), model, layout, backend, GLOBAL_BATCH, weights)
        del weights["trunk.conv1.weight"]
        with pytest.raises(ValueError, match=r"the weights given have no trunk.conv1.weight; give the --model"):
            Trainer(Config(), tiny_model(), layout, backend, GLOBAL_BATCH, weights)
        weights["trunk.conv1.weight"] = np.zeros((4, 3, 3, 2))
        with pytest.raises(ValueError, match=r"trunk.conv1.weight has shape \(4, 3, 3, 3\), but the values given have"):
            Trainer(replace(Config()), tiny_model(), layout, backend, GLOBAL_BATCH, weights)
