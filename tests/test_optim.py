"""Momentum SGD by hand, learning rates by the paper."""

import numpy as np
import pytest

from owt_mpi.autograd import Parameter
from owt_mpi.nn.init import Constant
from owt_mpi.optim import MomentumSGD, lr_for_batch, schedule_factor
from tests.op_check import REFERENCE


def parameter(value: float, is_bias: bool) -> Parameter:
    made = Parameter((1,), Constant(0), is_bias=is_bias)
    made.set_data(np.array([value]), REFERENCE)
    return made


def test_two_steps_are_those_done_by_hand():
    weight, bias = parameter(1.0, is_bias=False), parameter(1.0, is_bias=True)
    sgd = MomentumSGD([weight, bias], REFERENCE, momentum=0.9, weight_decay=0.1, bias_lr_multiplier=2.0)
    for gradient in (3.0, 5.0):
        for p in (weight, bias):
            p.accumulate_grad(np.array([gradient]))
        sgd.step(lr=0.01)
    # weight: v = -0.01 (3 + 0.1) = -0.031, w = 0.969; v = 0.9 v - 0.01 (5 + 0.0969) = -0.078869, w = 0.890131
    np.testing.assert_allclose(weight.data, [0.890131], rtol=1e-12)
    # bias: no decay, twice the rate: v = -0.06, w = 0.94; v = -0.054 - 0.1 = -0.154, w = 0.786
    np.testing.assert_allclose(bias.data, [0.786], rtol=1e-12)


def test_a_step_forgets_the_gradients():
    weight = parameter(1.0, is_bias=False)
    sgd = MomentumSGD([weight], REFERENCE)
    weight.accumulate_grad(np.array([1.0]))
    sgd.step(0.1)
    with pytest.raises(AssertionError, match="has no gradient"):
        sgd.step(0.1)


@pytest.mark.parametrize(("rule", "expected"), [("linear", 0.08), ("sqrt", 0.01 * 8**0.5), ("none", 0.01)])
def test_the_rate_follows_the_batch_by_the_rule(rule, expected):
    assert lr_for_batch(0.01, base_batch=128, batch=1024, rule=rule) == pytest.approx(expected, rel=1e-15)


def test_the_rate_falls_by_250_to_the_minus_one_third_at_each_quarter():
    factor = 250 ** (-1 / 3)
    progress = (0.0, 0.2499, 0.25, 0.5, 0.74, 0.75, 0.99)
    factors = [schedule_factor(p, (0.25, 0.5, 0.75), factor) for p in progress]
    np.testing.assert_allclose(factors, [1, 1, factor, factor**2, factor**2, 1 / 250, 1 / 250], rtol=1e-12)
