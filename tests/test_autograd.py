"""The tape on graphs that are not chains."""

import numpy as np
import pytest

from owt_mpi.autograd import Parameter, backward, no_tape, symbolic, tensor
from owt_mpi.nn.init import Constant
from owt_mpi.ops.add import AddOp, add
from owt_mpi.ops.linear import linear
from owt_mpi.ops.relu import relu
from tests.op_check import REFERENCE, check_gradients

rng = np.random.default_rng(5)


def parameter(values: np.ndarray) -> Parameter:
    made = Parameter(values.shape, Constant(0.0))
    made.set_data(values, REFERENCE)
    return made


def test_branches_that_split_and_join_get_the_sum_of_their_gradients():
    def diamond(x, w):
        shared = relu(linear(x, w, None))
        left, right = linear(shared, w, None), relu(shared)
        return add(add(left, right), add(shared, x))

    check_gradients(diamond, [rng.standard_normal((3, 4)), rng.standard_normal((4, 4))])


def test_a_tensor_used_twice_by_one_operation_counts_twice():
    x = tensor(np.array([[2.0]]), REFERENCE, requires_grad=True)
    backward(add(x, x), np.array([[1.0]]))
    np.testing.assert_array_equal(x.grad, [[2.0]])


def test_a_gradient_is_ready_once_and_only_after_its_last_use():
    w, v = parameter(rng.standard_normal((4, 4))), parameter(rng.standard_normal((4, 4)))
    ready = []
    for p, name in ((w, "w"), (v, "v")):
        p.on_grad_ready = lambda q, name=name: ready.append((name, q.grad.copy()))
    y = linear(linear(linear(tensor(rng.standard_normal((2, 4)), REFERENCE), w, None), v, None), w, None)
    backward(y, np.ones((2, 4)))
    assert [name for name, _ in ready] == ["v", "w"]
    np.testing.assert_array_equal(ready[1][1], w.grad)


def test_gradients_of_passes_add_up_in_the_buffer_they_are_given():
    w = parameter(rng.standard_normal((3, 4)))
    flat = np.full(12, np.nan)
    w.grad_buffer = flat.reshape(3, 4)
    x = rng.standard_normal((6, 4))
    for part in (x[:2], x[2:]):
        backward(linear(tensor(part, REFERENCE), w, None), np.ones((len(part), 3)))
    np.testing.assert_allclose(flat.reshape(3, 4), np.ones((3, 6)) @ x, rtol=1e-12)
    w.clear_grad()
    backward(linear(tensor(x, REFERENCE), w, None), np.ones((6, 3)))
    np.testing.assert_allclose(flat.reshape(3, 4), np.ones((3, 6)) @ x, rtol=1e-12)


def test_what_needs_no_gradient_gets_none_and_costs_none():
    x, w = tensor(rng.standard_normal((2, 4)), REFERENCE), parameter(rng.standard_normal((3, 4)))
    y = linear(x, w, None)
    assert y.creator.needs_grad == (False, True)
    backward(y, np.ones((2, 3)))
    assert x.grad is None


def test_nothing_is_recorded_without_the_tape():
    w = parameter(rng.standard_normal((3, 4)))
    with no_tape():
        y = linear(tensor(rng.standard_normal((2, 4)), REFERENCE), w, None)
    assert y.creator is None
    assert not y.requires_grad
    assert linear(tensor(rng.standard_normal((2, 4)), REFERENCE), w, None).creator is not None


def test_backward_takes_the_graph_apart():
    w = parameter(rng.standard_normal((3, 4)))
    y = relu(linear(tensor(rng.standard_normal((2, 4)), REFERENCE), w, None))
    backward(y, np.ones((2, 3)))
    assert y.creator is None
    with pytest.raises(AssertionError, match="does not depend"):
        backward(y, np.ones((2, 3)))


def test_symbolic_tensors_have_shapes_and_no_data():
    y = relu(linear(symbolic((2, 4)), symbolic((3, 4)), None))
    assert y.shape == (2, 3)
    assert y.data is None


def test_an_operation_that_gives_no_gradient_where_one_is_needed_is_named():
    class Forgetful(AddOp):
        def backward(self, gy):
            return gy, None

    x = tensor(np.ones((1, 1)), REFERENCE, requires_grad=True)
    with pytest.raises(AssertionError, match=r"Forgetful.backward gave no gradient"):
        backward(Forgetful()(x, relu(x)), np.ones((1, 1)))


def test_parameters_that_were_never_given_values_are_noticed():
    with pytest.raises(ValueError, match="LinearOp: an input has no values"):
        linear(tensor(np.ones((2, 4), np.float32), REFERENCE), Parameter((3, 4), Constant(0.0)), None)


def test_a_long_chain_needs_no_deep_recursion():
    x = tensor(np.ones((1, 1)), REFERENCE, requires_grad=True)
    y = x
    for _ in range(5000):
        y = add(y, x)
    backward(y, np.ones((1, 1)))
    np.testing.assert_array_equal(x.grad, [[5001.0]])
