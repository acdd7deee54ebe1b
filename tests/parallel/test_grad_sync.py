"""Gradient buckets: right sums, sent off during the backward pass, in the same order everywhere."""

import numpy as np
import pytest

from owt_mpi.autograd import backward
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.grad_sync import AllReduceSync
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


@pytest.mark.parametrize("bucket_bytes", [1, 2 * LAYER_BYTES, 10**6])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_gradients_are_the_sum_over_ranks(num_ranks, bucket_bytes):
    expected = make_parameters()
    for rank in range(num_ranks):
        backward(forward(expected, rows_of(rank)), np.ones((3, 6)))

    def sum_twice(comm):
        parameters = make_parameters()
        sync = AllReduceSync(parameters, comm, REFERENCE, sgd, bucket_bytes)
        for _ in range(2):  # the second time reuses the buckets
            for parameter in parameters:
                parameter.clear_grad()
            y = forward(parameters, rows_of(comm.rank))
            with sync:
                backward(y, np.ones((3, 6)))
            sync.wait()
        return [p.grad for p in parameters]

    for gradients in run_ranks(num_ranks, sum_twice):
        for gradient, parameter in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-12)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_steps_are_those_of_one_rank_with_the_rows_of_all(num_ranks):
    def train_shared(comm):
        parameters = make_parameters()
        return train(parameters, AllReduceSync(parameters, comm, REFERENCE, sgd, LAYER_BYTES), comm.rank)

    for weights in run_ranks(num_ranks, train_shared):
        for got, expected in zip(weights, train_alone(num_ranks), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_each_bucket_leaves_as_soon_as_it_is_full_and_is_waited_for_at_the_end(monkeypatch):
    layer = "backward of a layer"
    assert events_of_step(AllReduceSync, TwoAlike(), monkeypatch, 2 * LAYER_BYTES) == [
        layer, layer, "start all_reduce 1", layer, layer, "start all_reduce 2",
        "wait all_reduce 1", "wait all_reduce 2", "update", "other work",
    ]  # fmt: skip
    assert events_of_step(AllReduceSync, TwoAlike(), monkeypatch, LAYER_BYTES)[:4] == [
        layer,
        "start all_reduce 1",
        layer,
        "start all_reduce 2",
    ]


def test_one_rank_sends_and_copies_nothing(monkeypatch):
    events = events_of_step(AllReduceSync, SerialCommunicator(), monkeypatch, 1)
    assert events == ["backward of a layer"] * 4 + ["update", "other work"]


def test_gradients_of_several_backward_passes_are_summed_once():
    def sum_parts(comm):
        parameters = make_parameters()
        sync = AllReduceSync(parameters, comm, REFERENCE, sgd, 2 * LAYER_BYTES)
        for rows in np.split(rows_of(comm.rank), 3):
            backward(forward(parameters, rows), np.ones((1, 6)))
        sync.start_all()
        sync.wait()
        return [p.grad for p in parameters]

    expected = make_parameters()
    for rank in range(2):
        backward(forward(expected, rows_of(rank)), np.ones((3, 6)))
    for gradients in run_ranks(2, sum_parts):
        for gradient, parameter in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-12)


def test_a_parameter_that_gets_no_gradient_is_noticed():
    def leave_out_the_last_layer(comm):
        parameters = make_parameters()
        with AllReduceSync(parameters, comm, REFERENCE, sgd):
            backward(forward(parameters[:-2], rows_of(0)), np.ones((3, 6)))

    with pytest.raises(AssertionError, match="buckets that wait for gradients"):
        run_ranks(2, leave_out_the_last_layer)
