"""The CUDA kernels over rows - activations, dropout, losses - compute what the operations compute on the CPU."""

import numpy as np
import pytest

from owt_mpi import rng
from owt_mpi.autograd import Tensor, backward
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.ops.dropout import dropout, dropout_mask
from owt_mpi.ops.logistic_loss import logistic_loss
from owt_mpi.ops.relu import relu
from owt_mpi.ops.softmax_loss import softmax_loss
from tests.backends.cuda_kernel_check import (
    ORDERS,
    TYPES,
    assert_close,
    device,
    garbage,
    make_kernels,
    needs_gpp,
    normal,
    numbers,
    off_by_one,
    stored,
)

pytestmark = needs_gpp
REFERENCE = ReferenceBackend()


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def kernels(request, monkeypatch):
    return make_kernels(monkeypatch, request.param)


def on_the_cpu(function, x, gy=None):
    """Return y = function(x) by the operations, and the gradient of <gy, y>."""
    leaf = Tensor(x, REFERENCE, x.shape, x.dtype, requires_grad=True)
    y = function(leaf)
    backward(y, np.ones(y.shape, x.dtype) if gy is None else gy)
    return np.asarray(y.data), np.asarray(leaf.grad)


SHAPES = [(3, 24), (5, 2, 3, 16), (7, 19), (1, 1), (3, 2056), (2, 2, 130, 9)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_relu_and_relu_grad(kernels, shape, kind):
    x, b, gy = normal(shape, kind, 1), normal(shape[-1:], kind, 2), normal(shape, kind, 3)
    y, gx = garbage(shape, x.dtype), garbage(shape, x.dtype)
    kernels.bias_relu(*device(x, b, y))
    assert_close(y, np.maximum(numbers(x) + numbers(b), 0), kind)
    kernels.relu_grad(*device(gy, y, gx), 1.5)
    assert_close(gx, 1.5 * numbers(gy) * (numbers(y) > 0), kind)


@pytest.mark.parametrize("kind", TYPES)
def test_results_may_take_the_place_of_inputs(kernels, kind):
    x, b, gy = normal((5, 19), kind, 1), normal((19,), kind, 2), normal((5, 19), kind, 3)
    y, gx = x.copy(), gy.copy()
    kernels.bias_relu(*device(y, b, y))
    kernels.relu_grad(*device(gx, y, gx))
    expected = np.maximum(numbers(x) + numbers(b), 0)
    assert_close(y, expected, kind)
    assert_close(gx, numbers(gy) * (expected > 0), kind)


@pytest.mark.parametrize("kind", TYPES)
def test_relu_keeps_a_nan(kernels, kind):
    x, b = stored(np.array([[np.nan, -1.0, 2.0]]), kind), stored(np.zeros(3), kind)
    kernels.bias_relu(*device(x, b, x))
    np.testing.assert_array_equal(numbers(x), [[np.nan, 0, 2]])


def masked(kernels, name, x, rows, rate, key, first_column, num_columns, b=None):
    y, mask = garbage(x.shape, x.dtype), dropout_mask(rate, key, rows, first_column, num_columns)
    getattr(kernels, name)(*device(*(a for a in (x, b, y, rows) if a is not None)), mask)
    return y


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.0])
@pytest.mark.parametrize("shape", [(3, 24), (5, 3, 7), (4, 2056), (2, 2, 65, 8)], ids=str)
def test_dropout_has_the_bits_of_the_operation_and_so_has_its_gradient(kernels, shape, rate):
    rows, key = np.array([9, 2**40, 0, 5, 3])[: shape[0]], rng.stream_key(3, "dropout", "fc6", 17)
    x, gy = normal(shape, "float32", 1), normal(shape, "float32", 2)
    where = (rate, key, rows, 40, 10_000)
    y, gx = on_the_cpu(lambda x: dropout(x, *where), x, gy)
    np.testing.assert_array_equal(masked(kernels, "dropout", x, rows, rate, key, 40, 10_000), y)
    np.testing.assert_array_equal(masked(kernels, "dropout", gy, rows, rate, key, 40, 10_000), gx)
    both, gx = on_the_cpu(lambda x: dropout(relu(x), *where), x, gy)
    fused, fused_gx = masked(kernels, "relu_dropout", x, rows, rate, key, 40, 10_000), garbage(shape, x.dtype)
    kernels.relu_grad(*device(gy, fused, fused_gx), 1 / (1 - rate))
    np.testing.assert_array_equal(fused, both)
    np.testing.assert_array_equal(fused_gx, gx)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("columns", [24, 2056, 19], ids=str)
def test_bias_relu_and_dropout_are_one_pass_that_rounds_once(kernels, columns, kind):
    rows, key = np.array([9, 2**40, 0, 5]), rng.stream_key(3, "dropout", "fc6", 17)
    x, b = normal((4, columns), kind, 1), normal((columns,), kind, 2)
    where = (0.3, key, rows, 40, 10_000)
    y = masked(kernels, "bias_relu_dropout", x, rows, *where[:2], *where[3:], b=b)
    kept = on_the_cpu(lambda x: dropout(x, *where), np.ones((4, columns)))[0]
    assert_close(y, kept * np.maximum(numbers(x) + numbers(b), 0), kind)
    assert 0 < np.count_nonzero(numbers(y)) < np.count_nonzero(kept) < y.size
    if kind == "float32":
        np.testing.assert_array_equal(y, on_the_cpu(lambda x: dropout(relu(x), *where), x + b)[0])


def test_a_draw_of_just_the_threshold_is_dropped(kernels):
    rows, key, x = np.array([6]), rng.stream_key(2, "dropout"), np.ones((1, 4), np.float32)
    drawn = rng.random_bits(key, 40 * rows + np.arange(4)) >> np.uint64(32)
    rate = 1.0 - float(drawn[2]) / 2.0**32
    y, _ = on_the_cpu(lambda x: dropout(x, rate, key, rows, 0, 40), x)
    np.testing.assert_array_equal(masked(kernels, "dropout", x, rows, rate, key, 0, 40), y)
    assert y[0, 2] == 0


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("columns", [16, 13])
def test_dropout_of_halves_keeps_the_same_elements(kernels, kind, columns):
    rows, key = np.arange(4), rng.stream_key(1, "dropout")
    x = normal((4, columns), kind, 1)
    kept = on_the_cpu(lambda x: dropout(x, 0.4, key, rows, 2, 50), np.ones((4, columns)))[0] > 0
    assert 0 < kept.sum() < kept.size
    assert_close(masked(kernels, "dropout", x, rows, 0.4, key, 2, 50), kept * numbers(x) / 0.6, kind)


@pytest.mark.parametrize("dtype", [np.float32])
def test_a_slice_of_rows_and_columns_is_dropped_as_the_whole_is(kernels, dtype):
    rows, key = np.array([4, 1, 8, 6]), rng.stream_key(0, "dropout")
    x = np.ones((4, 48), dtype)
    whole = masked(kernels, "dropout", x, rows, 0.5, key, 0, 48)
    part = masked(kernels, "dropout", x[2:, 9:33].copy(), rows[2:].copy(), 0.5, key, 9, 48)
    np.testing.assert_array_equal(part, whole[2:, 9:33])


# rows of logits with classes from 5 on: labels before, in and after them, and one that counts nothing
LOGITS = [(6, 24), (6, 19), (6, 1), (6, 1000), (6, 2309)]
FIRST_CLASS = 5


def logits_and_labels(shape, kind):
    z = stored(4 * np.random.default_rng(1).normal(size=shape), kind)
    return z, np.array([FIRST_CLASS, FIRST_CLASS + shape[1] - 1, -1, FIRST_CLASS + shape[1] // 2, 2, 10_000])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_logistic_loss_and_its_gradient(kernels, shape, kind):
    z, labels = logits_and_labels(shape, kind)
    gz, row_losses, loss = garbage(shape, z.dtype), garbage((6,), np.float32), garbage((1,), np.float32)
    kernels.logistic_loss(*device(z, labels, gz, row_losses), FIRST_CLASS, 0.25)
    kernels.sum_losses(*device(row_losses, loss))
    expected, gradient = on_the_cpu(lambda z: logistic_loss(z, labels, FIRST_CLASS), numbers(z))
    np.testing.assert_allclose(loss[0], expected, rtol=1e-6)
    assert_close(gz, 0.25 * gradient, kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", LOGITS, ids=str)
def test_softmax_loss_of_a_block_of_the_classes(kernels, shape, kind):
    z, labels = logits_and_labels(shape, kind)
    others = 4 * np.random.default_rng(2).normal(size=(6, 7))  # the logits of the classes in other blocks
    row_max, row_sum, row_losses = (garbage((6,), np.float32) for _ in range(3))
    gz, loss = garbage(shape, z.dtype), garbage((1,), np.float32)
    kernels.softmax_max(*device(z, row_max))
    np.testing.assert_array_equal(row_max, numbers(z).max(axis=1))
    row_max = np.maximum(row_max, others.max(axis=1).astype(np.float32))
    kernels.softmax_sum(*device(z, row_max, row_sum))
    row_sum += np.exp(others - row_max[:, None]).sum(axis=1).astype(np.float32)
    kernels.softmax_loss(*device(z, row_max, row_sum, labels, gz, row_losses), FIRST_CLASS, 0.25)
    kernels.sum_losses(*device(row_losses, loss))

    def of_all(z):
        combine_max = lambda column: np.maximum(column, others.max(axis=1, keepdims=True))  # noqa: E731
        combine_sum = lambda column: column + np.exp(others - row_max[:, None]).sum(axis=1, keepdims=True)  # noqa: E731
        return softmax_loss(z, labels, FIRST_CLASS, combine_max, combine_sum)

    expected, gradient = on_the_cpu(of_all, numbers(z))
    np.testing.assert_allclose(loss[0], expected, rtol=2e-6)
    assert_close(gz, 0.25 * gradient, kind)


@pytest.mark.parametrize("name", ["logistic_loss", "softmax_loss"])
def test_a_gradient_may_take_the_place_of_the_logits(kernels, name):
    z, labels = logits_and_labels((6, 24), "float32")
    gz, row_losses = garbage(z.shape, z.dtype), garbage((6,), np.float32)
    rows = [] if name == "logistic_loss" else [np.full(6, 9, np.float32), np.full(6, 3, np.float32)]
    getattr(kernels, name)(*device(z, *rows, labels, gz, row_losses), FIRST_CLASS, 0.5)
    getattr(kernels, name)(*device(z, *rows, labels, z, row_losses), FIRST_CLASS, 0.5)
    np.testing.assert_array_equal(z, gz)


def test_logits_at_the_ends_of_their_range_give_finite_results(kernels):
    z = np.array([[1e30, -1e30, 0.0, 88.0], [-88.0, -1e30, -1e30, -1e30]], np.float32)
    labels = np.array([0, 0])
    gz, rows = garbage(z.shape, z.dtype), [garbage((2,), np.float32) for _ in range(3)]
    kernels.logistic_loss(*device(z, labels, gz, rows[0]), 0, 1.0)
    assert np.isfinite(gz).all()
    np.testing.assert_allclose(rows[0], [88.0 + np.log(2), 88.0], rtol=1e-6)
    kernels.softmax_max(*device(z, rows[0]))
    kernels.softmax_sum(*device(z, rows[0], rows[1]))
    kernels.softmax_loss(*device(z, rows[0], rows[1], labels, gz, rows[2]), 0, 1.0)
    np.testing.assert_array_equal(rows[2], [0, 0])
    np.testing.assert_array_equal(gz, 0)


def test_rows_between_packs_are_read_one_number_at_a_time(kernels):
    z, labels = logits_and_labels((6, 24), "float16")
    expected, gz, row_losses = garbage(z.shape, z.dtype), off_by_one(z), garbage((6,), np.float32)
    kernels.logistic_loss(*device(z, labels, expected, row_losses), FIRST_CLASS, 1.0)
    kernels.logistic_loss(*device(off_by_one(z), labels, gz, row_losses), FIRST_CLASS, 1.0)
    np.testing.assert_array_equal(gz, expected)
