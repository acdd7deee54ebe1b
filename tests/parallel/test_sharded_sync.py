"""Sharded synchronisation: the bits of an all-reduce, each rank with its part of the momentum, in the right order."""

import numpy as np
import pytest

from owt_mpi.autograd import backward
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.optim import MomentumSGD
from owt_mpi.parallel.grad_sync import AllReduceSync
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel.sharded_sync import ShardedSync
from owt_mpi.parallel.weight_sync import make_weight_sync
from tests.op_check import REFERENCE
from tests.parallel.chain import (
    LAYER_BYTES,
    TwoAlike,
    events_of_step,
    forward,
    make_parameters,
    rows_of,
    sgd,
    train,
    train_alone,
)
from tests.tiny import train_tiny_on


@pytest.mark.parametrize("bucket_bytes", [1, LAYER_BYTES, 10**6])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 5])
def test_weights_are_those_of_an_all_reduce_to_the_bit(num_ranks, bucket_bytes):
    def train_both(comm):
        weights = []
        for kind in ("all-reduce", "sharded"):
            parameters = make_parameters()
            sync = make_weight_sync(kind, parameters, comm.dup(kind), REFERENCE, sgd, bucket_bytes)
            weights.append(train(parameters, sync, comm.rank))
        return weights

    for all_reduced, sharded in run_ranks(num_ranks, train_both):
        for got, expected, alone in zip(sharded, all_reduced, train_alone(num_ranks), strict=True):
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_allclose(got, alone, rtol=1e-11)


@pytest.mark.parametrize(
    "plan",
    [
        *(Plan(num_ranks, scheme) for num_ranks in (1, 2, 4) for scheme in ("dp", "a", "b", "c", "d")),
        Plan(4, "c", group_size=2),
        Plan(4, "d", group_size=2),
    ],
    ids=lambda plan: f"{plan.num_ranks} ranks, {plan.scheme}, groups of {plan.ranks_sharing_head}",
)
def test_the_tiny_network_is_trained_alike_in_every_scheme(plan):
    all_reduced, losses = train_tiny_on(plan, num_steps=5)
    sharded, sharded_losses = train_tiny_on(plan, num_steps=5, trunk_sync="sharded")
    assert sharded_losses == losses
    for name, values in all_reduced.items():
        np.testing.assert_array_equal(sharded[name], values, err_msg=name)


def test_copies_of_a_head_that_is_updated_after_every_pass_are_trained_alike():
    options = {"plan": Plan(4, "c", group_size=2), "passes_per_update": 1, "num_steps": 5}
    all_reduced, _ = train_tiny_on(**options)
    sharded, _ = train_tiny_on(**options, trunk_sync="sharded")
    for name, values in all_reduced.items():
        np.testing.assert_array_equal(sharded[name], values, err_msg=name)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_each_rank_holds_the_momentum_of_its_part_alone(num_ranks):
    def momentum_held(comm):
        made: list[MomentumSGD] = []

        def make_sgd(parameters):
            made.append(sgd(parameters))
            return made[-1]

        ShardedSync(make_parameters(), comm, REFERENCE, make_sgd, LAYER_BYTES)
        return sum(v.size for optimizer in made for v in optimizer.velocities)

    held = run_ranks(num_ranks, momentum_held)
    assert sum(held) == sum(p.size for p in make_parameters())
    assert max(held) == 4 * -(-42 // num_ranks)  # four buckets of 42 elements, filled up


def test_gradients_leave_during_backward_and_weights_arrive_under_the_next_update_and_other_work(monkeypatch):
    layer = "backward of a layer"
    assert events_of_step(ShardedSync, TwoAlike(), monkeypatch, 2 * LAYER_BYTES) == [
        layer, layer, "start reduce_scatter 1", layer, layer, "start reduce_scatter 2",
        "wait reduce_scatter 1", "update", "start all_gather 3",
        "wait reduce_scatter 2", "update", "start all_gather 4",
        "other work", "wait all_gather 3", "wait all_gather 4",
    ]  # fmt: skip


def test_the_sums_of_several_backward_passes_are_exchanged_once():
    def step_in_parts(comm):
        parameters = make_parameters()
        sync = ShardedSync(parameters, comm, REFERENCE, sgd, 2 * LAYER_BYTES)
        for rows in np.split(rows_of(comm.rank), 3):
            backward(forward(parameters, rows), np.ones((1, 6)))
        sync.start_all()
        sync.start_step(0.01).wait()
        return [p.data for p in parameters]

    for weights in run_ranks(2, step_in_parts):
        for got, expected in zip(weights, train_alone(2, num_steps=1), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_weights_that_were_replaced_instead_of_written_into_are_noticed():
    def replace(comm):
        parameters = make_parameters()
        sync = ShardedSync(parameters, comm, REFERENCE, sgd)
        parameters[3].set_data(np.zeros((6,)), REFERENCE)
        train(parameters, sync, comm.rank, num_steps=1)

    with pytest.raises(AssertionError, match=r"layer1.bias was moved out of its bucket"):
        run_ranks(2, replace)


def test_one_rank_has_nothing_to_share():
    parameters = make_parameters()
    sync = make_weight_sync("sharded", parameters, SerialCommunicator(), REFERENCE, sgd, 1)
    assert isinstance(sync, AllReduceSync)
