"""The training step: what crosses under what, and what is said of a loss that is no number."""

from dataclasses import replace

import numpy as np
import pytest

from owt_mpi.autograd import Op
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.bad_steps import BadStepError
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions
from owt_mpi.nn.layers import Flatten, Linear
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Sequential
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.parallel.grad_sync import AllReduceSync
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from tests.comm.recording import RecordingCommunicator
from tests.parallel.chain import sgd
from tests.tiny import GLOBAL_BATCH, SPEC, global_batch, part_of, tiny_model


def make_trainer(comm, plan, model=None, trunk_sync="all-reduce"):
    config = Config(parallel=ParallelOptions(dtype="float64", trunk_sync=trunk_sync))
    return Trainer(config, model or tiny_model(), make_layout(comm, plan), ReferenceBackend(), GLOBAL_BATCH)


def test_the_heads_gradients_cross_under_the_trunks_backward_where_the_head_is_copied(monkeypatch):
    events = []
    trainer = make_trainer(SerialCommunicator(), Plan(1, "dp"))
    replicas = SerialCommunicator()
    replicas.size = 2  # what the values are does not matter here
    trainer.head_sync = AllReduceSync(
        trainer.head.parameters(), RecordingCommunicator(replicas, events), trainer.backend, sgd
    )
    plain = Conv2dOp.backward

    def noted(self, gy):
        events.append("backward of a convolution")
        return plain(self, gy)

    monkeypatch.setattr(Conv2dOp, "backward", noted)
    trainer.train_step(global_batch(0, "float64"), 0)
    convolution = "backward of a convolution"
    assert events == ["start all_reduce 1", convolution, convolution, "wait all_reduce 1"]


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize(
    ("value", "place"), [(np.inf, "the images of samples 9"), (1e308, "the output of trunk.conv1")]
)
def test_the_first_place_where_a_value_is_no_number_is_named_with_its_rank(trunk_sync, value, place):
    def train(comm):
        trainer = make_trainer(comm, Plan(2), trunk_sync=trunk_sync)
        batch = part_of(global_batch(0, "float64"), comm.rank, comm.size)
        if comm.rank == 1:
            trainer.trunk.parameters()[0].data *= 100
            batch.images[1] = value  # the head's layers on rank 0 come to see it too, after those on rank 1
        before = [p.data.copy() for p in trainer.trunk.parameters() + trainer.head.parameters()]
        with np.errstate(all="ignore"), pytest.raises(BadStepError) as caught:
            trainer.train_step(batch, step=7)
        for parameter, values in zip(trainer.trunk.parameters() + trainer.head.parameters(), before, strict=True):
            np.testing.assert_array_equal(parameter.data, values)
        return str(caught.value)

    for message in run_ranks(2, train):
        assert "at step 7;" in message
        assert f"no finite number is in {place} on rank 1;" in message


def test_a_parameter_that_is_no_number_is_named():
    trainer = make_trainer(SerialCommunicator(), Plan(1))
    trainer.head.parameters()[0].data[0, 0] = np.nan
    with pytest.raises(BadStepError, match=r"is in parameter head.fc3.weight on rank 0"):
        trainer.train_step(global_batch(0, "float64"), 0)


def test_a_trunk_without_parameters_trains_its_head():
    trunk = Sequential({"flatten": Flatten()})
    head = Sequential({"fc": Linear(SPEC.crop**2 * SPEC.channels, SPEC.num_classes)})
    trainer = make_trainer(SerialCommunicator(), Plan(1), Model("flat", SPEC, trunk, head, "softmax"))
    scores = [trainer.train_step(global_batch(0, "float64"), step) for step in range(5)]
    assert scores[-1].loss < scores[0].loss


def test_validation_counts_valid_rows_alone_and_keeps_no_tape():
    def score(comm):
        trainer = make_trainer(comm, Plan(comm.size))
        batch = part_of(global_batch(3, "float64"), comm.rank, comm.size)
        valid = batch.rows < 11
        tally = trainer.validate(replace(batch, valid=valid, labels=np.where(valid, batch.labels, -1)))
        assert isinstance(trainer.trunk, Sequential)
        return trainer.total_score(tally)

    alone = run_ranks(1, score)[0]
    assert alone.num_examples == 11
    for shared in run_ranks(4, score):
        assert shared.loss == pytest.approx(alone.loss, rel=1e-12)
        assert (shared.top1_hits, shared.top5_hits, shared.num_examples) == (
            alone.top1_hits,
            alone.top5_hits,
            alone.num_examples,
        )


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_an_image_counts_as_much_in_a_batch_with_empty_rows(loss):
    def update(rows_that_count):
        comm, batch = SerialCommunicator(), global_batch(0, "float64")
        config = Config(
            optimizer=OptimizerOptions(lr=0.02, weight_decay=0.0), parallel=ParallelOptions(dtype="float64")
        )
        layout = make_layout(comm, Plan(1))
        trainer = Trainer(config, tiny_model(loss), layout, ReferenceBackend(), GLOBAL_BATCH)
        parameters = trainer.trunk.parameters() + trainer.head.parameters()
        before = [p.data.copy() for p in parameters]
        trainer.train_step(replace(batch, labels=np.where(rows_that_count, batch.labels, -1)), 0)
        return [p.data - values for p, values in zip(parameters, before, strict=True)]

    first = np.arange(GLOBAL_BATCH) < 11
    for whole, *parts in zip(update(first | True), update(first), update(~first), strict=True):
        np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=1e-10 * np.abs(whole).max())


def test_the_first_layers_input_gradient_is_never_computed(monkeypatch):
    wanted = []
    plain = Op.__call__

    def noted(self, *inputs):
        y = plain(self, *inputs)
        if isinstance(self, Conv2dOp):
            wanted.append(self.needs_grad[0])
        return y

    trainer = make_trainer(SerialCommunicator(), Plan(1))
    monkeypatch.setattr(Op, "__call__", noted)
    trainer.train_step(global_batch(0, "float64"), 0)
    assert wanted == [False, True]
