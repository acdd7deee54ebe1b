"""The reference backend's gradients are those of its forward, and images of a batch do not touch one another."""

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from tests.backends.conformance import CONV_CASES, LRN_CASES, POOL_CASES, values

BACKEND = ReferenceBackend()
STEP = 1e-6


def check_slope(forward, x, gradient_of, seed=9):
    """Along a random direction d, the slope of <gy, forward(x)> by central differences is <gradient, d>."""
    gy = values(forward(x).shape, np.float64, seed)
    direction = values(x.shape, np.float64, seed + 1)
    rise = (gy * (forward(x + STEP * direction) - forward(x - STEP * direction))).sum()
    np.testing.assert_allclose((gradient_of(gy) * direction).sum(), rise / (2 * STEP), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_conv2d_gradients_are_its_slopes(case):
    x, w, b = values(case.x, float, 1), values(case.w, float, 2), values(case.w[:1], float, 3)
    where = (case.stride, case.pad)
    grad_w = lambda gy: BACKEND.conv2d_grad_w(gy, x, *where, case.w, with_bias=True)  # noqa: E731
    check_slope(lambda x: BACKEND.conv2d(x, w, b, *where), x, lambda gy: BACKEND.conv2d_grad_x(gy, w, *where, case.x))
    check_slope(lambda w: BACKEND.conv2d(x, w, b, *where), w, lambda gy: grad_w(gy)[0])
    check_slope(lambda b: BACKEND.conv2d(x, w, b, *where), b, lambda gy: grad_w(gy)[1])


@pytest.mark.parametrize("case", POOL_CASES, ids=lambda case: case.name)
def test_pooling_gradients_are_their_slopes(case):
    x, where = values(case.x, float, 1), (case.kernel, case.stride, case.pad)
    _, workspace = BACKEND.max_pool2d(x, *where)
    check_slope(
        lambda x: BACKEND.max_pool2d(x, *where)[0],
        x,
        lambda gy: BACKEND.max_pool2d_grad(gy, workspace, *where, case.x),
    )
    check_slope(lambda x: BACKEND.avg_pool2d(x, *where), x, lambda gy: BACKEND.avg_pool2d_grad(gy, *where, case.x))


@pytest.mark.parametrize("case", LRN_CASES, ids=lambda case: case.name)
def test_lrn_gradient_is_its_slope(case):
    x, parameters = values(case.x, float, 1), (case.size, case.alpha, case.beta, case.k)
    _, workspace = BACKEND.lrn(x, *parameters)
    check_slope(lambda x: BACKEND.lrn(x, *parameters)[0], x, lambda gy: BACKEND.lrn_grad(gy, x, workspace, *parameters))


def test_a_batch_in_four_parts_gives_the_same_sums():
    x, w, b = values((8, 9, 7, 5), float, 1), values((6, 3, 2, 5), float, 2), values((6,), float, 3)
    whole = BACKEND.conv2d(x, w, b, (2, 1), (1, 0))
    gw, gb = BACKEND.conv2d_grad_w(whole, x, (2, 1), (1, 0), w.shape, with_bias=True)
    parts = [slice(start, start + 2) for start in range(0, 8, 2)]
    split = np.concatenate([BACKEND.conv2d(x[part], w, b, (2, 1), (1, 0)) for part in parts])
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-12)
    sums = [BACKEND.conv2d_grad_w(whole[part], x[part], (2, 1), (1, 0), w.shape, with_bias=True) for part in parts]
    np.testing.assert_allclose(sum(part_gw for part_gw, _ in sums), gw, rtol=1e-12)
    np.testing.assert_allclose(sum(part_gb for _, part_gb in sums), gb, rtol=1e-12)
