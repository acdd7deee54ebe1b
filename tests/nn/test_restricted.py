"""Layers of restricted connectivity are dense layers with weights left out."""

import numpy as np
import pytest

from owt_mpi.autograd import backward, tensor
from owt_mpi.nn.init import FanInUniform, HeNormal, initialise
from owt_mpi.nn.layers import BlockLinear, Dropout, Flatten, Linear, ReLU
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import MODELS
from owt_mpi.nn.module import Sequential, assign_names, symbolic_context
from owt_mpi.nn.restricted import restricted
from tests.op_check import REFERENCE

INPUTS, OUTPUTS, BLOCKS = 20, 12, 4  # blocks of 5 inputs and 3 outputs


def is_connected(output: int, feature: int, cross: int) -> bool:
    block, position = divmod(feature, INPUTS // BLOCKS)
    return block == output // (OUTPUTS // BLOCKS) or position < cross


def mask(cross: int) -> np.ndarray:
    return np.array([[is_connected(r, j, cross) for j in range(INPUTS)] for r in range(OUTPUTS)])


def initialised(layer):
    assign_names(layer, "head.fc")
    initialise(layer.parameters(), REFERENCE, 1, np.dtype(np.float64))
    return layer


@pytest.mark.parametrize(("crosstalk", "cross"), [(0.0, 0), (0.1, 1), (0.4, 2), (0.41, 3), (0.8, 4), (1.0, 5)])
def test_the_layer_is_a_dense_one_with_weights_left_out(crosstalk, cross):
    layer = initialised(BlockLinear(INPUTS, OUTPUTS, BLOCKS, crosstalk, bias_init=FanInUniform(3)))
    present = mask(cross)
    assert layer.weight.size == present.sum()
    dense = np.zeros((OUTPUTS, INPUTS))
    dense[present] = layer.weight.data.ravel()
    rng = np.random.default_rng(2)
    x, gy = rng.standard_normal((3, INPUTS)), rng.standard_normal((3, OUTPUTS))
    inputs = tensor(x, REFERENCE, requires_grad=True)
    y = layer(inputs, symbolic_context(3))
    np.testing.assert_allclose(y.data, x @ dense.T + layer.bias.data, rtol=1e-12, atol=1e-14)
    backward(y, gy)
    np.testing.assert_allclose(inputs.grad, gy @ dense, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(layer.weight.grad.ravel(), (gy.T @ x)[present], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(layer.bias.grad, gy.sum(axis=0), rtol=1e-12)


def test_with_all_cross_talk_the_layer_has_the_first_values_of_the_dense_one():
    whole, in_blocks = (initialised(make) for make in (Linear(20, 12), BlockLinear(20, 12, 4, 1.0)))
    np.testing.assert_array_equal(in_blocks.weight.data, whole.weight.data)


def test_a_product_that_is_a_little_above_a_whole_number_is_that_number():
    assert 0.07 * 100 > 7
    assert BlockLinear(400, 8, 4, 0.07).cross_inputs == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 12, 5, 0.5), "20 inputs and 12 outputs cannot be cut into 5 equal blocks; .* divides 4"),
        ((20, 12, 0, 0.5), "cannot be cut into 0 equal blocks"),
        ((20, 12, 4, 1.01), r"crosstalk is 1.01, .* in 0..1"),
        ((20, 12, 4, -0.1), "crosstalk is -0.1"),
        ((20, 12, 4, float("nan")), "crosstalk is nan"),
    ],
)
def test_sizes_that_do_not_come_out_even_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockLinear(*arguments)


def model(units: int = 24, init=None, bias=None) -> Model:
    head = {
        "dropout": Dropout(0.5),
        "fc1": Linear(48, units, init or HeNormal(), bias or HeNormal()),
        "relu": ReLU(),
        "fc2": Linear(units, 8),
    }
    return Model("wide", InputSpec(4, 3, 8), Sequential({"flatten": Flatten()}), Sequential(head), "softmax")


def test_a_restricted_model_keeps_the_names_and_has_fewer_weights():
    whole = MODELS["alexnet-owt"](InputSpec(224, 3, 1000))
    names = [p.name for p in whole.parameters()]
    model = restricted(whole, 0.1, 8)
    assert [p.name for p in model.parameters()] == names
    shapes = [p.shape for p in model.head.parameters()]
    assert shapes == [(4096, 1152 + 7 * 116), (4096,), (4096, 512 + 7 * 52), (4096,), (1000, 512 + 7 * 52), (1000,)]
    assert [p.init.value for p in model.head.parameters() if p.is_bias] == [1, 1, -7]
    assert model.name == "alexnet-owt with FC layers in 8 blocks, cross-talk 0.1"


def test_full_cross_talk_leaves_the_model_as_it_is():
    whole = model(units=23)  # which no number of blocks divides
    assert restricted(whole, 1.0, 8) is whole


def test_first_values_follow_the_fan_in_that_is_left():
    fc1 = restricted(model(init=FanInUniform(), bias=FanInUniform(48)), 0.5, 4).head.layers["fc1"]
    initialise(fc1.parameters(), REFERENCE, 1, np.dtype(np.float64))
    fan_in = 12 + 3 * 6
    for parameter in (fc1.weight, fc1.bias):
        assert 0.85 * fan_in**-0.5 < np.abs(parameter.data).max() <= fan_in**-0.5, parameter.name


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (24, "--fc-blocks 5 does not divide the 48 inputs and 24 units of head.fc1; use 2 or 4 or 8"),
        (23, "use another model: no number divides all FC layers of this one"),
    ],
)
def test_a_number_of_blocks_that_does_not_divide_the_layers_is_named(units, message):
    with pytest.raises(ValueError, match=message):
        restricted(model(units), 0.5, 5)
