"""Restricted connectivity on K ranks: the same network as on one, and the bytes that it saves."""

from collections import Counter
from math import ceil

import numpy as np
import pytest

from owt_mpi.autograd import backward, tensor
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import initialise
from owt_mpi.nn.layers import Dropout, Linear, ReLU
from owt_mpi.nn.model import InputSpec, Loss, Model
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Context, Sequential
from owt_mpi.nn.restricted import restricted
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel.sharded import shard_head, sharded_loss
from owt_mpi.summary import summarise
from tests import test_wire, tiny
from tests.op_check import REFERENCE
from tests.tiny import SPEC, largest_difference, tiny_model, train_tiny, train_tiny_on

NUM_ROWS, BLOCKS = 5, 8
LABELS = np.array([3, 0, 7, 2, 3])


def restricted_tiny(loss: Loss = "logistic", crosstalk: float = 0.5) -> Model:
    """Return the tiny network with FC layers in 8 blocks of 3, 4 and 2 inputs."""
    dense = tiny_model(loss)
    head = {
        "dropout3": Dropout(0.25),
        "fc3": Linear(dense.num_features, 32),
        "relu3": ReLU(),
        "dropout4": Dropout(0.25),
        "fc4": Linear(32, 16),
        "relu4": ReLU(),
        "fc5": Linear(16, SPEC.num_classes),
    }
    return restricted(Model("tiny", SPEC, dense.trunk, Sequential(head), loss), crosstalk, BLOCKS)


def run_head(comm, crosstalk, splits_inputs=False):
    """Return logits, loss and gradients on this rank, from the same whole parameters and inputs at any size."""
    model = restricted_tiny(crosstalk=crosstalk)
    head = shard_head(model.head, comm, model.num_features, splits_inputs)
    initialise(head.parameters(), REFERENCE, 1, np.dtype(np.float64))
    x = np.random.default_rng(0).standard_normal((NUM_ROWS, model.num_features))
    if splits_inputs:
        x = np.split(x, comm.size, axis=1)[comm.rank]
    inputs = tensor(x, REFERENCE, requires_grad=True)
    logits = head(inputs, Context(training=True, rows=np.arange(NUM_ROWS), seed=1, step=3))
    value = sharded_loss(model.loss, logits, LABELS, comm)
    backward(value, np.ones(()))
    return logits.data, float(value.data), inputs.grad, {p.name: p.grad for p in head.parameters()}


@pytest.mark.parametrize("splits_inputs", [False, True])
@pytest.mark.parametrize("crosstalk", [0.0, 0.5])
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_the_sharded_head_computes_what_the_whole_head_does(num_ranks, crosstalk, splits_inputs):
    logits, value, grad, grads = run_head(SerialCommunicator(), crosstalk)
    ranks = run_ranks(num_ranks, lambda comm: run_head(comm, crosstalk, splits_inputs))
    np.testing.assert_allclose(np.concatenate([r[0] for r in ranks], axis=1), logits, rtol=1e-12, atol=1e-14)
    assert sum(r[1] for r in ranks) == pytest.approx(value, rel=1e-12)
    joined = np.concatenate([r[2] for r in ranks], axis=1) if splits_inputs else sum(r[2] for r in ranks)
    np.testing.assert_allclose(joined, grad, rtol=1e-10, atol=1e-14)
    for name, whole in grads.items():
        parts = np.concatenate([r[3][name] for r in ranks])
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-14, err_msg=name)
        assert np.any(whole)


@pytest.fixture
def restricted_tinies(monkeypatch):
    """Let `train_tiny` train the restricted network, on as many images as 8 ranks need for 8 passes each."""
    monkeypatch.setattr(tiny, "tiny_model", restricted_tiny)
    monkeypatch.setattr(tiny, "GLOBAL_BATCH", 64)


@pytest.mark.usefixtures("restricted_tinies")
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("scheme", ["dp", "a", "b", "c", "d"])
def test_k_ranks_train_the_same_restricted_network_as_one(scheme, loss):
    serial, _ = train_tiny(SerialCommunicator(), num_steps=8, loss=loss)
    for num_ranks in (2, 4, 8):
        parameters, _ = train_tiny_on(Plan(num_ranks, scheme), num_steps=8, loss=loss)
        assert largest_difference(parameters, serial) < 1e-12, f"{num_ranks} ranks differ from one"


@pytest.mark.usefixtures("restricted_tinies")
def test_groups_that_hold_a_restricted_head_each_train_the_same_network_as_one_rank():
    serial, _ = train_tiny(SerialCommunicator(), num_steps=8)
    parameters, _ = train_tiny_on(Plan(8, "d", group_size=4), num_steps=8)
    assert largest_difference(parameters, serial) < 1e-12


@pytest.mark.parametrize("scheme", ["c", "d"])
def test_ranks_must_divide_the_blocks(scheme):
    message = "splits the 8 blocks of head.fc3 over 3 ranks, which is no whole number each; use --head-group-size 1,"
    with pytest.raises(ValueError, match=message):
        Plan(3, scheme).check(restricted_tiny(), 3)
    Plan(8, scheme).check(restricted_tiny(), 8)


ALEXNET_INPUTS = (9216, 4096, 4096)  # of fc6, fc7, fc8


def activation_bytes(num_ranks: int, scheme: str, crosstalk: float, n: int = 128) -> tuple[int, int]:
    """Return the bytes of activations and gradients a rank receives before and within the head of alexnet-owt."""
    model = restricted(MODELS["alexnet-owt"](InputSpec(224, 3, 1000)), crosstalk, BLOCKS)
    layout = run_ranks(num_ranks, lambda comm: make_layout(comm, Plan(num_ranks, scheme)))[0]
    before, within, *_ = summarise(model, layout, n, np.dtype(np.float32)).received_bytes.values()
    return before, within


@pytest.mark.parametrize("crosstalk", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_received_bytes_are_those_of_the_closed_form(num_ranks, crosstalk):
    cross = [BLOCKS * ceil(crosstalk * inputs / BLOCKS) for inputs in ALEXNET_INPUTS]
    a_feature = 2 * (num_ranks - 1) * 128 * 4  # forward and backward, of every other rank's examples
    expected = a_feature * 9216, a_feature * (cross[1] + cross[2])
    for scheme in "abc":
        assert activation_bytes(num_ranks, scheme, crosstalk) == expected, scheme
    assert activation_bytes(num_ranks, "d", crosstalk) == (a_feature * 9216 // num_ranks, a_feature * sum(cross))


@pytest.mark.parametrize(
    ("scheme", "layers"), [("c", {"head.fc1", "head.fc2"}), ("d", {"head.fc0", "head.fc1", "head.fc2"})]
)
@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_a_step_that_ran_received_the_bytes_of_the_forecast(monkeypatch, num_ranks, scheme, layers):
    dense = test_wire.small_model
    monkeypatch.setattr(test_wire, "small_model", lambda: restricted(dense(), 0.4, BLOCKS))
    for flows, forecast in test_wire.step_flows(Plan(num_ranks, scheme)):
        received = Counter()
        for key, flow in flows.items():
            if key.payload not in test_wire.SIDE_TALK:
                received[key.label] += flow.received_bytes
        assert [received[label] for label in ("boundary", "head", "trunk", "replicas")] == list(forecast.values())
        assert {key.payload for key in flows if key.label == "head"} == layers | {"hits"}
