"""Gradient buckets: right sums, sent off during the backward pass, in the same order everywhere."""

import numpy as np
import pytest

from owt_mpi.autograd import Parameter, backward, tensor
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import Constant
from owt_mpi.ops.linear import LinearOp, linear
from owt_mpi.ops.relu import relu
from owt_mpi.parallel.grad_sync import GradSync
from tests.comm.recording import RecordingCommunicator
from tests.op_check import REFERENCE

NUM_LAYERS = 4
MATRIX_BYTES = 6 * 6 * 8


def make_parameters() -> list[Parameter]:
    parameters = []
    for i in range(NUM_LAYERS):
        parameter = Parameter((6, 6), Constant(0.0))
        parameter.name = f"layer{i}"
        parameter.set_data(np.random.default_rng(i).standard_normal((6, 6)), REFERENCE)
        parameters.append(parameter)
    return parameters


def forward(parameters, rows):
    y = tensor(rows, REFERENCE)
    for parameter in parameters:
        y = relu(linear(y, parameter, None))
    return y


def rows_of(rank):
    return np.random.default_rng(100 + rank).standard_normal((3, 6))


@pytest.mark.parametrize("bucket_bytes", [1, 2 * MATRIX_BYTES, 10**6])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_gradients_are_the_sum_over_ranks(num_ranks, bucket_bytes):
    expected = make_parameters()
    for rank in range(num_ranks):
        backward(forward(expected, rows_of(rank)), np.ones((3, 6)))

    def train(comm):
        parameters = make_parameters()
        sync = GradSync(parameters, comm, REFERENCE, bucket_bytes)
        for _ in range(2):  # the second time reuses the buckets
            for parameter in parameters:
                parameter.clear_grad()
            y = forward(parameters, rows_of(comm.rank))
            with sync:
                backward(y, np.ones((3, 6)))
            sync.wait()
        return [p.grad for p in parameters]

    for gradients in run_ranks(num_ranks, train):
        for gradient, parameter in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-12)


def events_of_backward(comm, bucket_bytes, monkeypatch):
    events = []
    parameters = make_parameters()
    sync = GradSync(parameters, RecordingCommunicator(comm, events), REFERENCE, bucket_bytes)
    y = forward(parameters, rows_of(comm.rank))
    plain = LinearOp.backward

    def noted(self, gy):
        events.append("backward of a layer")
        return plain(self, gy)

    monkeypatch.setattr(LinearOp, "backward", noted)
    with sync:
        backward(y, np.ones((3, 6)))
    sync.wait()
    monkeypatch.undo()
    return events


def test_each_bucket_leaves_as_soon_as_it_is_full_and_is_waited_for_at_the_end(monkeypatch):
    two_ranks = SerialCommunicator()
    two_ranks.size = 2  # what the values are does not matter here
    layer = "backward of a layer"
    assert events_of_backward(two_ranks, 2 * MATRIX_BYTES, monkeypatch) == [
        layer, layer, "start all_reduce 1", layer, layer, "start all_reduce 2",
        "wait all_reduce 1", "wait all_reduce 2",
    ]  # fmt: skip
    assert events_of_backward(two_ranks, 1, monkeypatch)[:4] == [
        layer,
        "start all_reduce 1",
        layer,
        "start all_reduce 2",
    ]


def test_one_rank_sends_and_copies_nothing(monkeypatch):
    assert events_of_backward(SerialCommunicator(), 1, monkeypatch) == ["backward of a layer"] * NUM_LAYERS


def test_gradients_of_several_backward_passes_are_summed_once():
    def train(comm):
        parameters = make_parameters()
        sync = GradSync(parameters, comm, REFERENCE, 2 * MATRIX_BYTES)
        for rows in np.split(rows_of(comm.rank), 3):
            backward(forward(parameters, rows), np.ones((1, 6)))
        sync.start_all()
        sync.wait()
        return [p.grad for p in parameters]

    expected = make_parameters()
    for rank in range(2):
        backward(forward(expected, rows_of(rank)), np.ones((3, 6)))
    for gradients in run_ranks(2, train):
        for gradient, parameter in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-12)


def test_a_parameter_that_gets_no_gradient_is_noticed():
    def train(comm):
        parameters = make_parameters()
        with GradSync(parameters, comm, REFERENCE):
            backward(forward(parameters[:-1], rows_of(0)), np.ones((3, 6)))

    with pytest.raises(AssertionError, match="buckets that wait for gradients"):
        run_ranks(2, train)
