"""Read this first: K ranks that split a network between them train the same network as one rank.

A tiny network (tests/tiny.py) is trained for 20 steps at K = 1, 2 and 4: the trunk data parallel, the head split over
the ranks by each scheme, or copied to each (dp). Initial weights and dropout masks do not depend on K, gradients are
exact, so only the order of sums differs, and the parameters agree to rounding.
"""

import functools

import numpy as np
import pytest

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.parallel.collective_ops import AllGatherOp
from owt_mpi.parallel.layout import Plan
from tests.tiny import largest_difference, train_tiny, train_tiny_on

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


@functools.cache
def one_rank(dtype="float64", loss="logistic"):
    """Return the parameters and the losses of one rank, trained once for all cases."""
    return train_tiny(SerialCommunicator(), dtype=dtype, loss=loss)


SCHEMES = ("dp", "a", "b", "c", "d")
CASES = [
    *(("float64", scheme, "logistic") for scheme in SCHEMES),
    *(("float32", scheme, "logistic") for scheme in SCHEMES),
    *(("float64", scheme, "softmax") for scheme in ("c", "d")),  # the loss is that of the head, whatever the passes
]


@pytest.mark.parametrize(("dtype", "scheme", "loss"), CASES)
def test_k_ranks_train_the_same_network_as_one(dtype, scheme, loss):
    serial, serial_losses = one_rank(dtype, loss)
    for num_ranks in (2, 4):
        parameters, losses = train_tiny_on(Plan(num_ranks, scheme), dtype=dtype, loss=loss)
        assert largest_difference(parameters, serial) < TOLERANCE[dtype], f"{num_ranks} ranks differ from one"
        np.testing.assert_allclose(losses, serial_losses, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("plan", [Plan(4, "c", group_size=2), Plan(4, "d", group_size=2), Plan(8, "b", group_size=4)])
def test_groups_that_hold_a_head_each_train_the_same_network_as_one_rank(plan):
    serial, _ = one_rank()
    parameters, _ = train_tiny_on(plan)
    assert largest_difference(parameters, serial) < 1e-12


@pytest.mark.parametrize("plan", [Plan(4, "c", group_size=2), Plan(8, "b", 4)])
def test_groups_that_follow_nodes_train_the_same_network_as_one_rank(plan):
    serial, _ = one_rank()
    parameters, _ = train_tiny_on(plan, hosts=["n1", "n2"] * (plan.num_ranks // 2))
    assert largest_difference(parameters, serial) < 1e-12


def test_ranks_that_send_in_turns_train_the_same_network_as_one():
    serial, _ = one_rank()
    parameters, _ = train_tiny_on(Plan(4, "c", senders=2))
    assert largest_difference(parameters, serial) < 1e-12


def test_training_changes_every_parameter_and_lowers_the_loss():
    before, _ = train_tiny(SerialCommunicator(), num_steps=0)
    after, losses = train_tiny(SerialCommunicator(), num_steps=60)
    for name, values in after.items():
        assert np.abs(values - before[name]).max() > 1e-4, f"{name} was not trained"
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_a_slice_in_place_of_a_reduce_scatter_would_be_noticed(monkeypatch):
    def slice_only(self, gy):
        width = gy.shape[1] // self.comm.size
        return (np.ascontiguousarray(gy[:, self.comm.rank * width : (self.comm.rank + 1) * width]),)

    serial, _ = train_tiny(SerialCommunicator(), num_steps=3)
    monkeypatch.setattr(AllGatherOp, "backward", slice_only)
    parameters, _ = train_tiny_on(Plan(2), num_steps=3)
    assert largest_difference(parameters, serial) > 1e-4
