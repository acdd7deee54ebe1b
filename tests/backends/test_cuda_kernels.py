"""The CUDA kernels over images, run on the CPU from their own text, compute what the reference backend computes."""

import numpy as np
import pytest

from owt_mpi.backends.base import pooled_size
from owt_mpi.backends.cuda_kernels import winner_dtype
from owt_mpi.backends.cuda_row_kernels import bias_grad_partial_shape
from owt_mpi.backends.reference import ReferenceBackend
from tests.backends.conformance import CONV_CASES, LRN_CASES, POOL_CASES, LrnCase, PoolCase
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

POOLS = [
    *POOL_CASES,
    PoolCase("whole_packs", x=(3, 7, 6, 24), kernel=(3, 2), stride=(2, 1), pad=(1, 0)),
    PoolCase("windows_apart", x=(2, 9, 10, 8), kernel=(2, 3), stride=(3, 4), pad=(0, 1)),
    PoolCase("window_of_289", x=(1, 17, 18, 8), kernel=(17, 17), stride=(1, 1)),
    PoolCase("many_blocks", x=(2, 12, 11, 40), kernel=(3, 3), stride=(1, 1), pad=(1, 1)),
]
LRNS = [
    *LRN_CASES,
    LrnCase("window_wider_than_a_pack", x=(1, 3, 2, 24), size=11, alpha=0.3, beta=0.75, k=1.0),
    LrnCase("many_blocks", x=(1, 9, 5, 96), size=5, alpha=0.5, beta=0.75, k=2.0),
]


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def kernels(request, monkeypatch):
    return make_kernels(monkeypatch, request.param)


def pool_y(case):
    height, width = (pooled_size(case.x[1 + i], case.kernel[i], case.stride[i], case.pad[i]) for i in (0, 1))
    return (case.x[0], height, width, case.x[3])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", POOLS, ids=lambda case: case.name)
def test_max_pool2d_and_its_gradient(kernels, case, kind):
    where = (case.kernel, case.stride, case.pad)
    ties = stored(np.maximum(np.round(numbers(normal(case.x, kind, 1))), 0), kind)
    for x in (normal(case.x, kind, 1), ties):
        y, winners = garbage(pool_y(case), x.dtype), garbage(pool_y(case), winner_dtype(case.kernel))
        gy, gx = normal(pool_y(case), kind, 2), garbage(case.x, x.dtype)
        kernels.max_pool2d(*device(x, y, winners), *where)
        kernels.max_pool2d_grad(*device(gy, winners, gx), *where)
        expected, workspace = REFERENCE.max_pool2d(numbers(x), *where)
        np.testing.assert_array_equal(numbers(y), expected)
        assert_close(gx, REFERENCE.max_pool2d_grad(numbers(gy), workspace, *where, case.x), kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", POOLS, ids=lambda case: case.name)
def test_avg_pool2d_and_its_gradient(kernels, case, kind):
    where = (case.kernel, case.stride, case.pad)
    x, gy = normal(case.x, kind, 1), normal(pool_y(case), kind, 2)
    y, gx = garbage(pool_y(case), x.dtype), garbage(case.x, x.dtype)
    kernels.avg_pool2d(*device(x, y), *where)
    kernels.avg_pool2d_grad(*device(gy, gx), *where)
    assert_close(y, REFERENCE.avg_pool2d(numbers(x), *where), kind)
    assert_close(gx, REFERENCE.avg_pool2d_grad(numbers(gy), *where, case.x), kind)


@pytest.mark.parametrize("kind", TYPES)
def test_a_nan_wins_the_windows_that_see_it_and_no_other(kernels, kind):
    x = numbers(normal((1, 5, 6, 8), kind, 1))
    x[0, 2, 3, 5] = np.nan
    x = stored(x, kind)
    y, winners = garbage((1, 4, 5, 8), x.dtype), garbage((1, 4, 5, 8), np.uint8)
    kernels.max_pool2d(*device(x, y, winners), (2, 2), (1, 1), (0, 0))
    assert np.argwhere(np.isnan(numbers(y))).tolist() == [[0, 1, 2, 5], [0, 1, 3, 5], [0, 2, 2, 5], [0, 2, 3, 5]]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", LRNS, ids=lambda case: case.name)
def test_lrn_and_its_gradient(kernels, case, kind):
    settings = (case.size, case.alpha, case.beta, case.k)
    x, gy = normal(case.x, kind, 1), normal(case.x, kind, 2)
    y, gx = garbage(case.x, x.dtype), garbage(case.x, x.dtype)
    kernels.lrn(*device(x, y), *settings)
    kernels.lrn_grad(*device(gy, x, gx), *settings)
    expected, workspace = REFERENCE.lrn(numbers(x), *settings)
    assert_close(y, expected, kind)
    assert_close(gx, REFERENCE.lrn_grad(numbers(gy), numbers(x), workspace, *settings), kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 24), (3, 7, 5, 19), (1, 1, 1, 8), (37, 6, 5, 64), (40, 1032), (3, 6, 7, 1)]
)
def test_bias_grad(kernels, shape, kind):
    gy = normal(shape, kind, 1)
    channels = shape[-1]
    gb = garbage((channels,), gy.dtype)
    partial = garbage(bias_grad_partial_shape(gy.size // channels, channels), np.float32)
    kernels.bias_grad(*device(gy, partial, gb))
    assert_close(gb, numbers(gy).reshape(-1, channels).sum(axis=0), kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_im2col_and_col2im_make_a_convolution_and_its_gradient(kernels, case, kind):
    n, *size, _ = case.x
    y_size = tuple(pooled_size(size[i], case.w[1 + i], case.stride[i], case.pad[i]) for i in (0, 1))
    where = (y_size, case.w[1:3], case.stride, case.pad)
    x, w = normal(case.x, kind, 1), numbers(normal(case.w, kind, 2))
    columns = garbage((n * y_size[0] * y_size[1], w[0].size), x.dtype)
    kernels.im2col(*device(x, columns), *where)
    y = (numbers(columns) @ w.reshape(len(w), -1).T).reshape(n, *y_size, len(w))
    np.testing.assert_allclose(y, REFERENCE.conv2d(numbers(x), w, None, case.stride, case.pad), rtol=0, atol=1e-11)
    seen = normal(columns.shape, kind, 3)  # the adjoint: <im2col x, seen> = <x, col2im seen>
    gx, exact = garbage(case.x, x.dtype), np.empty(case.x, np.float32)
    kernels.col2im(*device(seen, gx), *where)
    kernels.col2im(*device(numbers(seen).astype(np.float32), exact), *where)
    assert_close(gx, exact, kind)
    products = (numbers(columns) * numbers(seen)).sum()
    np.testing.assert_allclose((numbers(x) * exact).sum(), products, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_addresses_between_packs_are_read_one_number_at_a_time(kernels, kind):
    where = ((3, 2), (2, 1), (1, 0))
    case = PoolCase("", (2, 7, 6, 24), *where)
    x, gy = off_by_one(normal(case.x, kind, 1)), normal(pool_y(case), kind, 2)
    y, gx = garbage(pool_y(case), x.dtype), off_by_one(garbage(case.x, x.dtype))
    kernels.avg_pool2d(*device(x, y), *where)
    kernels.avg_pool2d_grad(*device(gy, gx), *where)
    assert_close(y, REFERENCE.avg_pool2d(numbers(x), *where), kind)
    assert_close(gx, REFERENCE.avg_pool2d_grad(numbers(gy), *where, case.x), kind)


def test_more_images_than_a_grid_has_rows(monkeypatch):
    monkeypatch.setattr("owt_mpi.backends.cuda_launch.MAX_GRID_Y", 3)
    kernels = make_kernels(monkeypatch, 0)
    x = normal((8, 4, 5, 3), "float32", 1)
    y, winners = garbage((8, 3, 4, 3), x.dtype), garbage((8, 3, 4, 3), np.uint8)
    kernels.max_pool2d(*device(x, y, winners), (2, 2), (1, 1), (0, 0))
    np.testing.assert_array_equal(y, REFERENCE.max_pool2d(x, (2, 2), (1, 1), (0, 0))[0])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x, y, w: (x, y[:, :, :, :2], w), "shape"),
        (lambda x, y, w: (x, y.astype(np.float16), w), "float16 instead of float32"),
        (lambda x, y, w: (x, y, w.astype(np.int32)), "int32 instead of uint8"),
        (lambda x, y, w: (x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), y, w), "not C-contiguous"),
    ],
    ids=["shape", "mixed_dtypes", "workspace", "strides"],
)
def test_what_a_kernel_takes_for_granted_is_asserted(monkeypatch, fault, message):
    arrays = np.zeros((1, 4, 5, 3), "f"), np.zeros((1, 3, 4, 3), "f"), np.zeros((1, 3, 4, 3), np.uint8)
    with pytest.raises(AssertionError, match=message):
        make_kernels(monkeypatch, 0).max_pool2d(*device(*fault(*arrays)), (2, 2), (1, 1), (0, 0))
