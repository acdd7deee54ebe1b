"""A module and the ReLU after it in one step: the same values, gradients and names, where nobody looks in between."""

import numpy as np
import pytest

from owt_mpi.autograd import Tensor, backward, no_tape, symbolic, tensor
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from owt_mpi.nn.module import Context, Module, Sequential, assign_names, symbolic_context
from owt_mpi.ops.add import add

REFERENCE = ReferenceBackend()
IMAGES = np.random.default_rng(1).standard_normal((3, 5, 6, 2))


def network(conv: type[Conv2d] = Conv2d) -> Sequential:
    layers: dict[str, Module] = {
        "conv": conv(2, 4, 3), "relu1": ReLU(), "flatten": Flatten(), "relu2": ReLU(), "fc1": Linear(48, 5),
        "relu3": ReLU(), "fc2": Linear(5, 3), "relu4": ReLU(),
    }  # fmt: skip
    net = Sequential(layers)
    assign_names(net, "net")
    for seed, parameter in enumerate(net.parameters()):
        parameter.set_data(np.random.default_rng(seed).standard_normal(parameter.shape), REFERENCE)
    return net


def run(net: Sequential, ctx: Context) -> tuple[Tensor, list[str], list[np.ndarray]]:
    """Return the output, the operations that made it, last first, and all gradients."""
    x = tensor(IMAGES, REFERENCE, requires_grad=True)
    y = net(x, ctx)
    names, node = [], y
    while node.creator is not None:
        names.append(node.creator.name)
        node = node.creator.inputs[0]
    backward(y, np.ones(y.shape))
    return y, names, [x.grad, *(p.grad for p in net.parameters())]


def test_relus_go_with_what_is_before_them_and_change_nothing():
    one_go, names, gradients = run(network(), Context(True, np.arange(3)))
    assert names == ["LinearOp", "LinearOp", "ReluOp", "FlattenOp", "Conv2dOp"]
    seen: list[str] = []
    watched = Context(True, np.arange(3), watch=lambda name, _: seen.append(name))
    in_steps, names, plain_gradients = run(network(), watched)
    assert names == ["ReluOp", "LinearOp", "ReluOp", "LinearOp", "ReluOp", "FlattenOp", "ReluOp", "Conv2dOp"]
    layers = ("conv", "relu1", "flatten", "relu2", "fc1", "relu3", "fc2", "relu4")
    assert seen == [*(f"net.{layer}" for layer in layers), "net"]
    np.testing.assert_array_equal(one_go.data, in_steps.data)
    assert 0 < np.count_nonzero(one_go.data) < one_go.data.size
    for one, other in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def dropping_network(dropout: type[Dropout] = Dropout, **options) -> Sequential:
    """Return fc-relu-dropout, then conv-relu-dropout on what comes before, and a ReLU and a Dropout after a pool."""
    layers: dict[str, Module] = {
        "conv": Conv2d(2, 4, 3), "relu0": ReLU(), "dropout0": dropout(0.2, **options), "pool": MaxPool2d(2, 1),
        "relu1": ReLU(), "dropout1": dropout(0.3, **options), "flatten": Flatten(), "fc": Linear(24, 5),
        "relu2": ReLU(), "dropout2": dropout(0.4, **options),
    }  # fmt: skip
    net = Sequential(layers)
    assign_names(net, "net")
    for seed, parameter in enumerate(net.parameters()):
        parameter.set_data(np.random.default_rng(seed).standard_normal(parameter.shape), REFERENCE)
    return net


IN_ONE_GO = ["LinearOp", "FlattenOp", "ReluOp", "MaxPool2dOp", "DropoutOp", "Conv2dOp"]


def test_a_dropout_after_a_relu_goes_with_it_and_changes_no_bit():
    one_go, names, gradients = run(dropping_network(), Context(True, np.arange(3), seed=3, step=2))
    assert names == IN_ONE_GO
    watched = Context(True, np.arange(3), seed=3, step=2, watch=lambda name, output: None)
    in_steps, _, plain_gradients = run(dropping_network(), watched)
    np.testing.assert_array_equal(one_go.data, in_steps.data)
    for one, other in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def pooling_network(pool: type[MaxPool2d] = MaxPool2d) -> Sequential:
    net = Sequential({"conv": Conv2d(2, 4, 3, 1, 1), "relu": ReLU(), "pool": pool(3, 2)})  # windows overlap
    assign_names(net, "net")
    for seed, parameter in enumerate(net.parameters()):
        parameter.set_data(
            np.random.default_rng(seed).standard_normal(parameter.shape) - 3 * parameter.is_bias, REFERENCE
        )
    return net


def test_max_pooling_of_what_is_rectified_keeps_the_maxima_alone_and_changes_no_bit():
    ctx, net = Context(True, np.arange(3)), pooling_network()
    y = net(tensor(IMAGES, REFERENCE, requires_grad=True), ctx)
    assert y.creator is not None
    convolved = y.creator.inputs[0]
    assert (convolved.data, convolved.creator.y) == (None, None)
    one_go, names, gradients = run(net, ctx)
    assert names == ["MaxPool2dOp", "Conv2dOp"]
    assert 0 < np.count_nonzero(one_go.data) < one_go.data.size, "windows without a number above 0 pass nothing back"
    in_steps, names, plain_gradients = run(pooling_network(), Context(True, np.arange(3), watch=lambda *_: None))
    assert names == ["MaxPool2dOp", "ReluOp", "Conv2dOp"]
    np.testing.assert_array_equal(one_go.data, in_steps.data)
    for one, other in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_array_equal(one, other)


def test_max_pooling_goes_its_own_way_without_a_tape_and_in_a_subclass():
    class Other(MaxPool2d):
        pass

    assert run(pooling_network(Other), Context(True, np.arange(3)))[1] == ["MaxPool2dOp", "Conv2dOp"]
    with no_tape():
        y = pooling_network()(tensor(IMAGES, REFERENCE), Context(False, np.arange(3)))
    np.testing.assert_array_equal(y.data, run(pooling_network(), Context(True, np.arange(3)))[0].data)


def test_a_dropout_that_drops_nothing_is_passed_over():
    evaluated, names, _ = run(dropping_network(), Context(False, np.arange(3)))
    assert names == [name for name in IN_ONE_GO if name != "DropoutOp"]
    plain, _, _ = run(dropping_network(), Context(False, np.arange(3), watch=lambda name, output: None))
    np.testing.assert_array_equal(evaluated.data, plain.data)


def test_a_dropout_that_makes_numbers_smaller_stays_a_step_of_its_own():
    """Numbers that it kept could become 0, and would count as dropped."""
    _, names, _ = run(dropping_network(scale=0.5), Context(True, np.arange(3)))
    assert names == [
        "DropoutOp",
        "LinearOp",
        "FlattenOp",
        "DropoutOp",
        "ReluOp",
        "MaxPool2dOp",
        "DropoutOp",
        "Conv2dOp",
    ]


def test_a_dropout_with_a_forward_of_its_own_keeps_it():
    class Doubling(Dropout):
        def forward(self, x: Tensor, ctx: Context) -> Tensor:
            return add(x, x)

    _, names, _ = run(dropping_network(Doubling), Context(True, np.arange(3)))
    assert names.count("AddOp") == 3


def test_shapes_are_worked_out_step_by_step():
    y = network()(symbolic((3, 5, 6, 2), np.float64), symbolic_context(3))
    assert y.creator is not None
    assert y.creator.name == "ReluOp"


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    class Negative(Conv2d):
        def forward(self, x: Tensor, ctx: Context) -> Tensor:
            y = super().forward(x, ctx)
            assert y.data is not None
            return tensor(-y.data, REFERENCE)

    y = Sequential({"conv": Negative(2, 4, 3), "relu": ReLU()})
    for parameter in y.parameters():
        parameter.set_data(np.ones(parameter.shape), REFERENCE)
    out = y(tensor(np.ones((1, 3, 3, 2)), REFERENCE), Context(True, np.arange(1)))
    assert out.data == pytest.approx(0)
