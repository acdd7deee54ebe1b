"""Steps that backward computes again: the same bits, and the tape holds their input alone."""

import gc
import weakref

import numpy as np

from owt_mpi.autograd import Parameter, Tensor, backward, no_tape, symbolic, tensor
from owt_mpi.nn.init import Constant
from owt_mpi.ops.add import add
from owt_mpi.ops.linear import linear
from owt_mpi.ops.relu import relu
from owt_mpi.recomputed import recomputed
from tests.op_check import REFERENCE

rng = np.random.default_rng(6)
ROWS = rng.standard_normal((3, 4))
WEIGHTS = [rng.standard_normal((4, 4)) for _ in range(3)]


def parameters() -> list[Parameter]:
    made = []
    for values in WEIGHTS:
        made.append(Parameter((4, 4), Constant(0.0)))
        made[-1].set_data(values.copy(), REFERENCE)
    return made


def branched(x: Tensor, u: Parameter, v: Parameter) -> Tensor:
    shared = relu(linear(x, u, None))
    return add(add(linear(shared, v, None), linear(x, u, None)), relu(shared))


def net(x: Tensor, u: Parameter, v: Parameter, w: Parameter, again: bool) -> Tensor:
    """Return a net that uses u inside and outside of steps computed again, and x in both."""

    def first(x: Tensor) -> Tensor:
        return branched(x, u, v)

    def second(x: Tensor) -> Tensor:
        return relu(linear(x, w, None))

    y = recomputed(first, x, [u, v]) if again else first(x)
    y = recomputed(second, y, [w]) if again else second(y)
    return add(linear(y, u, None), x)


def run(again: bool) -> tuple[list[np.ndarray], list[int]]:
    """Return output and gradients, and the parameters in the order in which they were ready."""
    used, ready = parameters(), []
    for number, p in enumerate(used):
        p.on_grad_ready = lambda p, number=number: ready.append((number, p.grad.copy()))
    x = tensor(ROWS, REFERENCE, requires_grad=True)
    y = net(x, *used, again)
    backward(y, np.arange(12.0).reshape(3, 4))
    for number, grad in ready:
        np.testing.assert_array_equal(grad, used[number].grad, err_msg="ready before it was complete")
    return [y.data, x.grad, *(p.grad for p in used)], [number for number, _ in ready]


def test_values_gradients_and_the_order_of_parameters_are_those_without_it():
    plain, order = run(again=False)
    again, order_again = run(again=True)
    assert sorted(order) == [0, 1, 2]
    assert order_again == order
    for one, other in zip(again, plain, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.count_nonzero(one)


def test_the_first_steps_may_start_from_values_that_need_no_gradient():
    (u, v, _), (u2, v2, _) = parameters(), parameters()
    y = recomputed(lambda x: branched(x, u, v), tensor(ROWS, REFERENCE), [u, v])
    backward(y, np.ones((3, 4)))
    backward(branched(tensor(ROWS, REFERENCE), u2, v2), np.ones((3, 4)))
    np.testing.assert_array_equal(u.grad, u2.grad)
    np.testing.assert_array_equal(v.grad, v2.grad)


def test_steps_within_steps_are_computed_again_too():
    (u, v, w), (u2, v2, w2) = parameters(), parameters()

    def outer(x: Tensor) -> Tensor:
        return linear(recomputed(lambda x: branched(x, u, v), x, [u, v]), w, None)

    backward(recomputed(outer, tensor(ROWS, REFERENCE), [u, v, w]), np.ones((3, 4)))
    backward(linear(branched(tensor(ROWS, REFERENCE), u2, v2), w2, None), np.ones((3, 4)))
    for one, other in ((u, u2), (v, v2), (w, w2)):
        np.testing.assert_array_equal(one.grad, other.grad)


def test_nothing_but_input_and_output_lives_between_forward_and_backward():
    w = parameters()[0]
    between: list[weakref.ref] = []

    def steps(x: Tensor) -> Tensor:
        hidden = linear(x, w, None)
        between.append(weakref.ref(hidden))
        return relu(hidden)

    y = recomputed(steps, tensor(ROWS, REFERENCE, requires_grad=True), [w])
    gc.collect()
    assert [ref() for ref in between] == [None]
    backward(y, np.ones((3, 4)))
    assert len(between) == 2, "computed once more"


def test_without_a_tape_or_values_steps_stand_alone():
    w = parameters()[0]
    with no_tape():
        y = recomputed(lambda x: linear(x, w, None), tensor(ROWS, REFERENCE), [w])
    assert y.creator is None
    shape_only = recomputed(lambda x: relu(linear(x, w, None)), symbolic((3, 4), np.float64), [w])
    assert shape_only.creator is not None
    assert shape_only.creator.name == "ReluOp"


def test_steps_that_do_nothing_are_no_steps():
    x = tensor(ROWS, REFERENCE, requires_grad=True)
    assert recomputed(lambda x: x, x, []) is x
