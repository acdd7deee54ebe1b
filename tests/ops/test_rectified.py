"""Operations that rectify, and drop, what they make: values and gradients of the steps that they take the place of."""

from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.autograd import Tensor
from owt_mpi.backends.host import dropout_factor
from owt_mpi.ops.add_bias import add_bias
from owt_mpi.ops.conv2d import conv2d
from owt_mpi.ops.dropout import dropout_mask
from owt_mpi.ops.linear import linear
from owt_mpi.ops.relu import relu
from tests import naive
from tests.op_check import check_op

rng = np.random.default_rng(5)
IMAGES, FILTERS = rng.standard_normal((2, 7, 5, 6)), rng.standard_normal((4, 3, 2, 6))
ROWS, UNITS, BIAS = rng.standard_normal((5, 7)), rng.standard_normal((4, 7)), rng.standard_normal(4)

Y = naive.conv2d(IMAGES, FILTERS, BIAS, (2, 1), (1, 2))
CASES: dict[str, tuple[Callable[..., Tensor], list[np.ndarray], np.ndarray]] = {
    "conv2d": (lambda x, w, b: conv2d(x, w, b, (2, 1), (1, 2), relu=True), [IMAGES, FILTERS, BIAS], Y),
    "conv2d without bias": (lambda x, w: conv2d(x, w, None, (2, 1), (1, 2), relu=True), [IMAGES, FILTERS], Y - BIAS),
    "linear": (lambda x, w, b: linear(x, w, b, relu=True), [ROWS, UNITS, BIAS], ROWS @ UNITS.T + BIAS),
    "linear without bias": (lambda x, w: linear(x, w, None, relu=True), [ROWS, UNITS], ROWS @ UNITS.T),
    "add_bias": (lambda x, b: add_bias(x, b, relu=True), [ROWS[:, :4], BIAS], ROWS[:, :4] + BIAS),
}


@pytest.mark.parametrize(("op", "inputs", "expected"), CASES.values(), ids=CASES)
def test_rectified_operation_and_its_gradients(op: Callable, inputs: list[np.ndarray], expected: np.ndarray):
    assert (expected < 0).any()
    check_op(op, inputs, np.maximum(expected, 0))


MASK = dropout_mask(0.4, 7, np.arange(5), 3, 11)
DROPPED: dict[str, tuple[Callable[..., Tensor], list[np.ndarray], np.ndarray]] = {
    "linear": (lambda x, w, b: linear(x, w, b, True, MASK), [ROWS, UNITS, BIAS], ROWS @ UNITS.T + BIAS),
    "linear without bias": (lambda x, w: linear(x, w, None, True, MASK), [ROWS, UNITS], ROWS @ UNITS.T),
    "add_bias": (lambda x, b: add_bias(x, b, True, MASK), [ROWS[:, :4], BIAS], ROWS[:, :4] + BIAS),
    "relu": (lambda x: relu(x, MASK), [ROWS[:, :4]], ROWS[:, :4]),
}


@pytest.mark.parametrize(("op", "inputs", "expected"), DROPPED.values(), ids=DROPPED)
def test_operation_with_dropout_behind_its_relu_and_its_gradients(
    op: Callable, inputs: list[np.ndarray], expected: np.ndarray
):
    kept = dropout_factor(expected, MASK)
    assert 0 < np.count_nonzero(kept * (expected > 0)) < np.count_nonzero(expected > 0)
    check_op(op, inputs, np.maximum(expected, 0) * kept)
