"""Initial values: the distributions asked for, and a shard's are the whole's."""

import numpy as np
import pytest

from owt_mpi.autograd import Parameter, Shard
from owt_mpi.nn.init import Constant, FanInUniform, HeNormal, Normal, initialise
from tests.op_check import REFERENCE

SHAPE = (12, 5, 3, 8)


def values(init, shape=SHAPE, shard=None, seed=1, name="layer.weight", dtype=np.float64):
    parameter = Parameter(shape, init, shard=shard)
    parameter.name = name
    initialise([parameter], REFERENCE, seed, np.dtype(dtype))
    return parameter.data


@pytest.mark.parametrize("axis", [0, 1, 3])
@pytest.mark.parametrize("init", [Normal(0.1), HeNormal(), FanInUniform()])
def test_a_shard_holds_its_part_of_the_whole(init, axis):
    count = {0: 4, 1: 5, 3: 2}[axis]
    parts = [values(init, shard=Shard(axis, index, count)) for index in range(count)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=axis), values(init))


def test_a_shard_of_more_elements_than_are_drawn_at_a_time_holds_its_part_of_the_whole():
    shape = (700, 1000)
    parts = [values(Normal(1.0), shape, Shard(1, index, 2)) for index in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), values(Normal(1.0), shape))


def test_values_have_the_spread_asked_for():
    shape = (100, 50)
    assert values(Normal(0.3), shape).std() == pytest.approx(0.3, rel=0.05)
    assert values(HeNormal(), shape).std() == pytest.approx((2 / 50) ** 0.5, rel=0.05)
    uniform = values(FanInUniform(), shape)
    assert uniform.std() == pytest.approx(50**-0.5 / 3**0.5, rel=0.05)
    assert np.abs(uniform).max() <= 50**-0.5
    assert np.abs(values(FanInUniform(fan_in=4), (10_000,))).max() == pytest.approx(0.5, rel=0.01)
    assert (values(Constant(-7.0), shape) == -7.0).all()


def test_values_depend_on_seed_and_name_alone():
    base = values(Normal(1.0))
    np.testing.assert_array_equal(values(Normal(1.0)), base)
    for other in (values(Normal(1.0), seed=2), values(Normal(1.0), name="other.weight")):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.1


def test_float32_values_are_the_float64_ones_rounded():
    np.testing.assert_array_equal(values(Normal(1.0), dtype=np.float32), values(Normal(1.0)).astype(np.float32))
