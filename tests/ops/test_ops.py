"""Every operation against a naive computation, and its gradients against finite differences."""

import numpy as np
import pytest

from owt_mpi import rng as counter_rng
from owt_mpi.autograd import Op, backward, symbolic, tensor
from owt_mpi.ops.add import add
from owt_mpi.ops.add_bias import add_bias
from owt_mpi.ops.avg_pool2d import avg_pool2d
from owt_mpi.ops.conv2d import Conv2dOp, conv2d
from owt_mpi.ops.dropout import dropout
from owt_mpi.ops.flatten import flatten
from owt_mpi.ops.linear import LinearOp, linear
from owt_mpi.ops.logistic_loss import logistic_loss
from owt_mpi.ops.lrn import lrn
from owt_mpi.ops.max_pool2d import max_pool2d
from owt_mpi.ops.relu import relu
from owt_mpi.ops.softmax_loss import softmax_loss
from tests import naive
from tests.op_check import REFERENCE, check_gradients

rng = np.random.default_rng(3)
IMAGES = rng.standard_normal((2, 7, 5, 6))
ROWS = rng.standard_normal((5, 7))
LOGITS = 3 * rng.standard_normal((5, 6))
LABELS = np.array([3, 0, 5, 2, 3])


def test_conv2d_is_the_naive_loop_and_its_gradients_are_exact(check_op):
    w, b = rng.standard_normal((4, 3, 2, 6)), rng.standard_normal(4)
    expected = naive.conv2d(IMAGES, w, b, (2, 1), (1, 2))
    check_op(lambda x, w, b: conv2d(x, w, b, (2, 1), (1, 2)), [IMAGES, w, b], expected)


def test_conv2d_without_bias(check_op):
    w = rng.standard_normal((4, 3, 2, 6))
    expected = naive.conv2d(IMAGES, w, None, (1, 2), (0, 1))
    check_op(lambda x, w: conv2d(x, w, None, (1, 2), (0, 1)), [IMAGES, w], expected)


def test_linear_is_x_times_w_transposed_plus_b(check_op):
    w, b = rng.standard_normal((4, 7)), rng.standard_normal(4)
    expected = np.array([[sum(x * v for x, v in zip(row, unit, strict=True)) for unit in w] for row in ROWS]) + b
    check_op(linear, [ROWS, w, b], expected)
    check_op(lambda x, w: linear(x, w, None), [ROWS, w], expected - b)


def test_relu_cuts_at_zero(check_op):
    check_op(relu, [IMAGES], np.where(IMAGES > 0, IMAGES, 0))


def test_max_pool2d_is_the_naive_loop(check_op):
    check_op(
        lambda x: max_pool2d(x, (3, 2), (2, 1), (1, 1)), [IMAGES], naive.max_pool2d(IMAGES, (3, 2), (2, 1), (1, 1))
    )


def test_avg_pool2d_is_the_naive_loop(check_op):
    check_op(
        lambda x: avg_pool2d(x, (3, 2), (2, 1), (1, 1)), [IMAGES], naive.avg_pool2d(IMAGES, (3, 2), (2, 1), (1, 1))
    )


def test_lrn_is_the_naive_loop(check_op):
    check_op(lambda x: lrn(x, 5, 0.7, 0.75, 1.3), [IMAGES], naive.lrn(IMAGES, 5, 0.7, 0.75, 1.3))


def test_flatten_keeps_memory_order(check_op):
    check_op(flatten, [IMAGES], IMAGES.reshape(2, -1))


def test_add_is_the_sum(check_op):
    other = rng.standard_normal(IMAGES.shape)
    check_op(add, [IMAGES, other], IMAGES + other)


def test_add_bias_adds_to_every_row(check_op):
    b = rng.standard_normal(7)
    check_op(add_bias, [ROWS, b], np.array([row + b for row in ROWS]))


def test_dropout_keeps_scaled_elements_by_their_global_index(check_op):
    key, rows = 1234, np.array([9, 2, 4, 0, 7])
    kept = [[bool(counter_rng.bernoulli(key, np.array([r * 20 + 11 + j]), 0.6)[0]) for j in range(7)] for r in rows]
    check_op(lambda x: dropout(x, 0.4, key, rows, 11, 20), [ROWS], np.where(kept, ROWS / 0.6, 0))


def test_dropout_of_a_block_is_the_block_of_the_dropout():
    key, x = 99, rng.standard_normal((6, 8))
    whole = dropout(tensor(x, REFERENCE), 0.5, key, np.arange(6)).data
    block = dropout(tensor(x[2:5, 4:], REFERENCE), 0.5, key, np.arange(2, 5), 4, 8).data
    np.testing.assert_array_equal(block, whole[2:5, 4:])


def test_logistic_loss_sums_cross_entropy_over_rows_and_classes(check_op):
    target = np.eye(6)[LABELS]
    probability = 1 / (1 + np.exp(-LOGITS))
    expected = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).sum()
    check_op(lambda z: logistic_loss(z, LABELS), [LOGITS], expected)


def test_logistic_losses_of_blocks_of_classes_add_up():
    whole = logistic_loss(tensor(LOGITS, REFERENCE), LABELS).data
    parts = [logistic_loss(tensor(LOGITS[:, c : c + 2], REFERENCE), LABELS, c).data for c in (0, 2, 4)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-14)


def test_logistic_loss_of_large_logits_is_finite_and_right():
    z = np.array([[800.0, -800.0]])
    with np.errstate(all="raise", under="ignore"):
        check = logistic_loss(tensor(z, REFERENCE, requires_grad=True), np.array([1]))
        backward(check, np.ones(()))
    assert check.data == 1600.0


def test_softmax_loss_is_the_summed_negative_log_probability(check_op):
    probability = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    expected = -np.log(probability[np.arange(5), LABELS]).sum()
    check_op(lambda z: softmax_loss(z, LABELS), [LOGITS], expected)


@pytest.mark.parametrize("loss", [logistic_loss, softmax_loss])
def test_rows_with_a_negative_label_count_nothing(loss):
    labels = LABELS.copy()
    labels[[1, 4]] = -1
    z = tensor(LOGITS, REFERENCE, requires_grad=True)
    y = loss(z, labels)
    backward(y, np.ones(()))
    kept = labels >= 0
    np.testing.assert_allclose(y.data, loss(tensor(LOGITS[kept], REFERENCE), labels[kept]).data, rtol=1e-14)
    assert not z.grad[~kept].any()
    assert z.grad[kept].all()


def test_multiply_adds_are_those_of_the_formula():
    assert Conv2dOp((4, 4), (2, 2)).multiply_adds((1, 224, 224, 3), (64, 11, 11, 3), (64,)) == 55 * 55 * 64 * 363
    assert LinearOp().multiply_adds((5, 9216), (4096, 9216), (4096,)) == 5 * 9216 * 4096


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d(symbolic((2, 7, 5, 6)), symbolic((4, 3, 3, 5)), None), "has 6 channels, but w .* takes 5"),
        (lambda: conv2d(symbolic((2, 7, 6)), symbolic((4, 3, 3, 6)), None), r"needs the axes \(n, h, w, c\)"),
        (lambda: conv2d(symbolic((2, 2, 9, 6)), symbolic((4, 3, 3, 6)), None), "3x3 window does not fit into a 2x9"),
        (lambda: conv2d(symbolic((2, 7, 5, 6)), symbolic((4, 3, 3, 6)), symbolic((3,))), r"needs \(4,\)"),
        (lambda: linear(symbolic((5, 7)), symbolic((4, 6)), None), "has 7 features, but w .* takes 6"),
        (lambda: max_pool2d(symbolic((2, 1, 5, 6)), (3, 3), (2, 2)), "window does not fit"),
        (lambda: avg_pool2d(symbolic((2, 1, 5, 6)), (3, 3), (2, 2)), "window does not fit"),
        (lambda: lrn(symbolic((2, 7, 5, 6)), 4, 1.0, 0.75, 1.0), "size is 4, but must be odd"),
        (lambda: add(symbolic((2, 3)), symbolic((2, 4))), r"\(2, 3\) and \(2, 4\) differ"),
        (lambda: add_bias(symbolic((2, 3)), symbolic((4,))), r"needs \(3,\)"),
        (lambda: dropout(symbolic((2, 3)), 1.0, 0, np.arange(2)), r"rate is 1.0, but must lie in \[0, 1\)"),
        (lambda: dropout(symbolic((2, 3)), 0.5, 0, np.arange(3)), "has 2 rows, but 3 are named"),
        (lambda: softmax_loss(symbolic((2, 3)), np.arange(3)), "n labels, got"),
    ],
)
def test_bad_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_of_different_dtypes_are_refused():
    with pytest.raises(
        TypeError, match=r"AddOp needs inputs of one floating-point dtype, got \['float64', 'float32'\]"
    ):
        add(tensor(ROWS, REFERENCE), tensor(ROWS.astype(np.float32), REFERENCE))


def test_the_gradient_check_fails_for_a_wrong_backward():
    class WrongRelu(Op):
        def out_shape(self, *shapes):
            return shapes[0]

        def forward(self, *xs):
            self.x = xs[0]
            return np.maximum(self.x, 0)

        def backward(self, gy):
            return (gy * (self.x > -0.5),)

    with pytest.raises(AssertionError, match="input 0"):
        check_gradients(WrongRelu(), [IMAGES])
