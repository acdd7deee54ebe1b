"""The sharded head against the whole head: outputs, loss, every gradient, hits."""

import numpy as np
import pytest

from owt_mpi.autograd import backward, tensor
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import initialise
from owt_mpi.nn.module import Context
from owt_mpi.parallel.sharded import classes_above_label, shard_head, sharded_loss
from tests.op_check import REFERENCE
from tests.tiny import tiny_model

NUM_ROWS = 5
LABELS = np.array([3, 0, 7, 2, 3])


def run_head(comm, loss, splits_inputs=False):
    """Return logits, loss and gradients on this rank, from the same whole parameters and inputs at any size."""
    model = tiny_model(loss)
    head = shard_head(model.head, comm, model.num_features, splits_inputs)
    initialise(head.parameters(), REFERENCE, 1, np.dtype(np.float64))
    x = np.random.default_rng(0).standard_normal((NUM_ROWS, model.num_features))
    if splits_inputs:
        x = np.split(x, comm.size, axis=1)[comm.rank]
    inputs = tensor(x, REFERENCE, requires_grad=True)
    logits = head(inputs, Context(training=True, rows=np.arange(NUM_ROWS), seed=1, step=3))
    value = sharded_loss(loss, logits, LABELS, comm)
    backward(value, np.ones(()))
    return logits.data, float(value.data), inputs.grad, {p.name: p.grad for p in head.parameters()}


@pytest.mark.parametrize("splits_inputs", [False, True])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_sharded_head_computes_what_the_whole_head_does(num_ranks, loss, splits_inputs):
    logits, value, grad, grads = run_head(SerialCommunicator(), loss)
    ranks = run_ranks(num_ranks, lambda comm: run_head(comm, loss, splits_inputs))
    np.testing.assert_allclose(np.concatenate([r[0] for r in ranks], axis=1), logits, rtol=1e-12, atol=1e-14)
    assert sum(r[1] for r in ranks) == pytest.approx(value, rel=1e-12)
    joined = np.concatenate([r[2] for r in ranks], axis=1) if splits_inputs else sum(r[2] for r in ranks)
    np.testing.assert_allclose(joined, grad, rtol=1e-10, atol=1e-14)
    for name, whole in grads.items():
        axis = 1 if splits_inputs and name.endswith("weight") else 0
        parts = np.concatenate([r[3][name] for r in ranks], axis=axis)
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-14, err_msg=name)
        assert np.any(whole)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_classes_above_the_label_are_counted_over_all_ranks(num_ranks):
    logits = np.random.default_rng(2).integers(-2, 3, (50, 8)).astype(np.float32)  # with ties
    labels = np.random.default_rng(3).integers(0, 8, 50)
    expected = [
        int(np.flatnonzero(np.lexsort((np.arange(8), -row)) == label)[0])
        for row, label in zip(logits, labels, strict=True)
    ]

    def count(comm):
        width = 8 // comm.size
        block = np.ascontiguousarray(logits[:, comm.rank * width : (comm.rank + 1) * width])
        return classes_above_label(block, labels, comm)

    for counted in run_ranks(num_ranks, count):
        np.testing.assert_array_equal(counted, expected)


def test_scores_that_are_no_numbers_hit_nothing():
    logits = np.full((3, 8), np.nan)
    assert (classes_above_label(logits, np.array([0, 3, 7]), SerialCommunicator()) >= 5).all()
