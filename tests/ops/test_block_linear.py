"""Fully connected layers in blocks, against a dense product with a masked weight matrix."""

import numpy as np
import pytest

from owt_mpi.autograd import symbolic
from owt_mpi.ops.block_columns import block_columns
from owt_mpi.ops.block_linear import block_linear

ROWS, BLOCKS, INPUTS, CROSS, OUTPUTS = 3, 4, 5, 2, 3  # inputs, cross-talk features and outputs of a block


def operands():
    rng = np.random.default_rng(3)
    x, b = rng.standard_normal((ROWS, BLOCKS * INPUTS)), rng.standard_normal(BLOCKS * OUTPUTS)
    return x, rng.standard_normal((BLOCKS * OUTPUTS, INPUTS + (BLOCKS - 1) * CROSS)), b


def test_block_columns_are_the_first_of_each_block(check_op):
    x = operands()[0]
    expected = np.stack([x[:, 5], x[:, 6], x[:, 10], x[:, 11]], axis=1)
    check_op(lambda x: block_columns(x, INPUTS, 2, first=1, count=2), [x], expected)
    check_op(lambda x: block_columns(x, INPUTS, INPUTS, first=2, count=1), [x], x[:, 10:15])


@pytest.mark.parametrize(("first", "count"), [(0, 4), (1, 2), (3, 1)])
def test_a_block_of_outputs_reads_its_inputs_and_the_cross_talk_of_the_others(check_op, first, count):
    x, w, b = operands()
    cross = np.random.default_rng(4).standard_normal((ROWS, BLOCKS * CROSS))  # in a layer: columns of x
    x, outputs = x[:, first * INPUTS : (first + count) * INPUTS], slice(first * OUTPUTS, (first + count) * OUTPUTS)
    w, b = w[outputs], b[outputs]
    expected = np.empty((ROWS, count * OUTPUTS))
    for row in range(ROWS):
        for unit in range(count * OUTPUTS):
            block = first + unit // OUTPUTS
            read = []
            for k in range(BLOCKS):
                whole = x[row, (k - first) * INPUTS : (k - first + 1) * INPUTS]
                read += list(whole if k == block else cross[row, k * CROSS : (k + 1) * CROSS])
            expected[row, unit] = np.dot(w[unit], read) + b[unit]
    check_op(lambda *arrays: block_linear(*arrays, BLOCKS, first, count), [x, cross, w, b], expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 20), (3, 8), (12, 12), (12,)), r"reads 11 features, w \(12, 12\) takes 12"),
        (((3, 20), (2, 8), (12, 11), (12,)), "different numbers of rows"),
        (((3, 21), (3, 8), (12, 11), (12,)), "21 of x cannot be shared equally by 4 blocks"),
        (((3, 20), (3, 7), (12, 11), (12,)), "7 of cross cannot be shared equally by 4 blocks"),
        (((3, 20), (3, 8), (13, 11), (13,)), "13 of w cannot be shared equally by 4 blocks"),
        (((3, 20), (3, 8), (12, 11), (11,)), r"b has shape \(11,\), but w"),
        (((3, 20, 1), (3, 8), (12, 11), (12,)), "needs the axes"),
    ],
)
def test_operands_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        block_linear(*map(symbolic, shapes), BLOCKS)


def test_columns_that_are_not_there_are_named():
    with pytest.raises(ValueError, match=r"no 2 blocks of 5 columns from block 3 on, of which 2 can be taken"):
        block_columns(symbolic((3, 20)), INPUTS, 2, first=3, count=2)
