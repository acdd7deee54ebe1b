"""The conformance table: what every backend must compute, as cases and one check function per operation.

A check compares with tests/naive.py and raises AssertionError. Sizes make every term matter: h != w, kernels and
strides that are not square, windows that leave rows over, channel counts that are and are not multiples of 16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.backends.base import Backend, Pair, Shape
from owt_mpi.backends.precision import HALF_DTYPES, exact_dtype, is_half
from tests import naive

# of the largest expected value; halves are rounded by 2^-11 and 2^-8 at most, once for a product and once for its bias
TOLERANCE = {
    np.dtype(np.float32): 2e-6,
    np.dtype(np.float64): 1e-13,
    **{half: 2.02 * 2.0 ** -(11 if half == np.float16 else 8) for half in HALF_DTYPES},
}


@dataclass(frozen=True)
class ConvCase:
    name: str
    x: Shape
    w: Shape  # (c_out, kh, kw, c_in)
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    bias: bool = True


@dataclass(frozen=True)
class PoolCase:
    name: str
    x: Shape
    kernel: Pair
    stride: Pair
    pad: Pair = (0, 0)


@dataclass(frozen=True)
class LrnCase:
    name: str
    x: Shape
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class SgdCase:
    name: str
    shape: Shape


CONV_CASES = [
    ConvCase("plain_3x3", x=(2, 6, 5, 4), w=(7, 3, 3, 4)),
    ConvCase("padded_without_bias", x=(2, 6, 5, 4), w=(7, 3, 3, 4), pad=(1, 1), bias=False),
    ConvCase("one_image_of_three_channels", x=(1, 7, 9, 3), w=(5, 3, 3, 3), pad=(1, 1)),
    ConvCase("alexnet_first_layer_small", x=(2, 31, 27, 3), w=(16, 11, 11, 3), stride=(4, 4), pad=(2, 2)),
    ConvCase("channels_of_16", x=(2, 7, 6, 16), w=(32, 3, 3, 16), pad=(1, 1)),
    ConvCase("channels_over_16", x=(3, 5, 6, 19), w=(35, 3, 3, 19), pad=(1, 1)),
    ConvCase("pointwise", x=(2, 5, 4, 6), w=(9, 1, 1, 6)),
    ConvCase("pointwise_strided", x=(2, 6, 7, 16), w=(16, 1, 1, 16), stride=(2, 3)),
    ConvCase("everything_uneven", x=(3, 11, 8, 5), w=(6, 2, 4, 5), stride=(2, 3), pad=(1, 2)),
    ConvCase("rows_left_over", x=(2, 12, 9, 4), w=(3, 5, 3, 4), stride=(4, 4)),
    ConvCase("kernel_as_large_as_the_image", x=(2, 4, 3, 8), w=(10, 4, 3, 8)),
    ConvCase("pad_as_large_as_the_kernel", x=(2, 3, 4, 2), w=(3, 2, 2, 2), pad=(2, 2)),
    ConvCase("one_channel_to_one", x=(2, 5, 6, 1), w=(1, 3, 2, 1), pad=(1, 0)),
]

POOL_CASES = [
    PoolCase("apart_2x2", x=(2, 6, 4, 5), kernel=(2, 2), stride=(2, 2)),
    PoolCase("overlapping_3x3", x=(2, 9, 7, 16), kernel=(3, 3), stride=(2, 2)),
    PoolCase("overlapping_padded", x=(3, 8, 7, 19), kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    PoolCase("everything_uneven", x=(2, 11, 8, 3), kernel=(3, 4), stride=(2, 3), pad=(1, 2)),
    PoolCase("rows_left_over", x=(1, 12, 9, 4), kernel=(3, 2), stride=(4, 5)),
    PoolCase("whole_image", x=(2, 4, 5, 18), kernel=(4, 5), stride=(1, 1)),
    PoolCase("window_of_one", x=(2, 5, 4, 1), kernel=(1, 1), stride=(2, 1)),
]

LRN_CASES = [
    LrnCase("alexnet_exponent_alpha_near_1", x=(2, 3, 4, 16), size=5, alpha=0.9, beta=0.75, k=2.0),
    LrnCase("alexnet", x=(2, 3, 2, 32), size=5, alpha=1e-4, beta=0.75, k=2.0),
    LrnCase("other_exponent", x=(2, 3, 4, 9), size=3, alpha=1.1, beta=0.6, k=1.0),
    LrnCase("exponent_of_one", x=(1, 5, 3, 19), size=5, alpha=0.5, beta=1.0, k=1.5),
    LrnCase("window_wider_than_the_channels", x=(2, 2, 3, 3), size=9, alpha=0.7, beta=0.75, k=1.0),
    LrnCase("window_of_one", x=(2, 2, 3, 5), size=1, alpha=0.8, beta=0.75, k=1.0),
]

SGD_CASES = [
    SgdCase("matrix", (3, 7)),
    SgdCase("scalar_bias", (1,)),
    SgdCase("one_element_past_a_block", ((1 << 16) + 1,)),
    SgdCase("odd_length_of_many_blocks", (3, 65_537)),
]


def values(shape: Shape, dtype: Any, seed: int) -> np.ndarray:
    """Return normal numbers, read-only, and a view of every other element: no operation may need contiguity."""
    every_other = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(dtype)[..., 0]
    every_other.flags.writeable = False
    return every_other


def check_close(backend: Backend, actual: Any, expected: np.ndarray, dtype: Any, what: str) -> None:
    result = backend.to_host(actual)
    assert result.dtype == dtype, f"{what}: {result.dtype} instead of {dtype}"
    assert result.shape == expected.shape, f"{what}: shape {result.shape} instead of {expected.shape}"
    assert result.flags.c_contiguous, f"{what}: not C-contiguous"
    assert result.flags.writeable, f"{what}: not the caller's own"
    allowed = TOLERANCE[np.dtype(dtype)] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=allowed, err_msg=what)


def check_conv2d(backend: Backend, case: ConvCase, dtype: Any) -> None:
    x, w, b = values(case.x, dtype, 1), values(case.w, dtype, 2), values(case.w[:1], dtype, 3)
    expected = naive.conv2d(x, w, b if case.bias else None, case.stride, case.pad)
    bias = backend.from_host(b) if case.bias else None
    y = backend.conv2d(backend.from_host(x), backend.from_host(w), bias, case.stride, case.pad)
    check_close(backend, y, expected, dtype, "y")
    rectified = backend.conv2d(backend.from_host(x), backend.from_host(w), bias, case.stride, case.pad, relu=True)
    check_close(backend, rectified, np.maximum(expected, 0), dtype, "max(y, 0)")


def check_conv2d_grad_x(backend: Backend, case: ConvCase, dtype: Any) -> None:
    w, gy = values(case.w, dtype, 2), values(_conv_y(case), dtype, 4)
    expected = naive.conv2d_grad_x(gy, w, case.stride, case.pad, case.x)
    gx = backend.conv2d_grad_x(backend.from_host(gy), backend.from_host(w), case.stride, case.pad, case.x)
    check_close(backend, gx, expected, dtype, "gx")


def check_conv2d_grad_w(backend: Backend, case: ConvCase, dtype: Any) -> None:
    x, gy = values(case.x, dtype, 1), values(_conv_y(case), dtype, 4)
    expected_gw, expected_gb = naive.conv2d_grad_w(gy, x, case.stride, case.pad, case.w)
    gw, gb = backend.conv2d_grad_w(
        backend.from_host(gy), backend.from_host(x), case.stride, case.pad, case.w, case.bias
    )
    check_close(backend, gw, expected_gw, dtype, "gw")
    if case.bias:
        check_close(backend, gb, expected_gb, dtype, "gb")
    else:
        assert gb is None


def check_max_pool2d(backend: Backend, case: PoolCase, dtype: Any) -> None:
    """Also where many elements of a window are equal, as after a ReLU, and where all are below zero."""
    normal = values(case.x, dtype, 1)
    exact = normal.astype(np.float64)
    ties, negative = (x.astype(dtype) for x in (np.maximum(np.round(exact), 0), -1 - np.abs(exact)))
    for what, x in {"normal": normal, "ties": ties, "negative": negative}.items():
        y, workspace = backend.max_pool2d(backend.from_host(x), case.kernel, case.stride, case.pad)
        expected = naive.max_pool2d(x, case.kernel, case.stride, case.pad)
        check_close(backend, y, expected, dtype, f"y ({what})")
        gy = values(expected.shape, dtype, 4)
        gx = backend.max_pool2d_grad(backend.from_host(gy), workspace, case.kernel, case.stride, case.pad, case.x)
        expected_gx = naive.max_pool2d_grad(gy, x, case.kernel, case.stride, case.pad)
        check_close(backend, gx, expected_gx, dtype, f"gx ({what})")


def check_avg_pool2d(backend: Backend, case: PoolCase, dtype: Any) -> None:
    x = values(case.x, dtype, 1)
    expected = naive.avg_pool2d(x, case.kernel, case.stride, case.pad)
    y = backend.avg_pool2d(backend.from_host(x), case.kernel, case.stride, case.pad)
    check_close(backend, y, expected, dtype, "y")
    gy = values(expected.shape, dtype, 4)
    gx = backend.avg_pool2d_grad(backend.from_host(gy), case.kernel, case.stride, case.pad, case.x)
    check_close(backend, gx, naive.avg_pool2d_grad(gy, case.kernel, case.stride, case.pad, case.x), dtype, "gx")


def check_lrn(backend: Backend, case: LrnCase, dtype: Any) -> None:
    parameters = (case.size, case.alpha, case.beta, case.k)
    x, gy = values(case.x, dtype, 1), values(case.x, dtype, 4)
    y, workspace = backend.lrn(backend.from_host(x), *parameters)
    check_close(backend, y, naive.lrn(x, *parameters), dtype, "y")
    gx = backend.lrn_grad(backend.from_host(gy), backend.from_host(x), workspace, *parameters)
    check_close(backend, gx, naive.lrn_grad(gy, x, *parameters), dtype, "gx")


def check_momentum_sgd(backend: Backend, case: SgdCase, dtype: Any) -> None:
    """Of halves: gradients and a copy, with weights and momentum in float32."""
    exact = exact_dtype(dtype)
    w, v = (backend.from_host(values(case.shape, exact, seed).copy()) for seed in (1, 2))
    g = backend.from_host(values(case.shape, dtype, 3).copy())
    copy = backend.from_host(np.zeros(case.shape, dtype)) if is_half(dtype) else None
    for scale in (1.0, 0.25):
        old_w, old_v, old_g = (backend.to_host(array).copy() for array in (w, v, g))
        expected = naive.momentum_sgd(old_w, old_v, scale * old_g.astype(np.float64), 0.3, 0.9, 0.2)
        backend.momentum_sgd(w, v, g, lr=0.3, momentum=0.9, weight_decay=0.2, scale=scale, copy=copy)
        check_close(backend, w, expected[0], exact, "w")
        check_close(backend, v, expected[1], exact, "v")
        np.testing.assert_array_equal(backend.to_host(g), old_g)
        if copy is not None:
            np.testing.assert_array_equal(backend.to_host(copy), backend.to_host(w).astype(dtype))


def check_find_overflow(backend: Backend, case: SgdCase, dtype: Any) -> None:
    for bad in (np.inf, -np.inf, np.nan):
        arrays = [values(case.shape, dtype, seed).copy() for seed in (1, 2)]
        for expected in (0, 1):
            flag = backend.to_host(backend.find_overflow([backend.from_host(array) for array in arrays]))
            assert (flag.dtype, flag.tolist()) == (np.int32, [expected])
            arrays[1].flat[-1] = bad


def check_skipped_momentum_sgd(backend: Backend, case: SgdCase, dtype: Any) -> None:
    """Nothing changes where the flag is raised, by however many ranks; with a flag of 0 all does."""
    exact = exact_dtype(dtype)
    before = [values(case.shape, exact, 1), values(case.shape, exact, 2), values(case.shape, dtype, 4)]
    for raised in (2, 0):
        w, v, copy = (backend.from_host(array.copy()) for array in before)
        g, skip = (
            backend.from_host(values(case.shape, dtype, 3).copy()),
            backend.from_host(np.array([raised], np.int32)),
        )
        backend.momentum_sgd(w, v, g, 0.3, 0.9, 0.2, 0.5, copy if is_half(dtype) else None, skip)
        same = [np.array_equal(backend.to_host(array), old) for array, old in zip((w, v, copy), before, strict=True)]
        assert same == ([True] * 3 if raised else [False, False, not is_half(dtype)])


Check = Callable[[Backend, Any, Any], None]
TABLE: list[tuple[Check, list[Any]]] = [
    (check_conv2d, CONV_CASES),
    (check_conv2d_grad_x, CONV_CASES),
    (check_conv2d_grad_w, CONV_CASES),
    (check_max_pool2d, POOL_CASES),
    (check_avg_pool2d, POOL_CASES),
    (check_lrn, LRN_CASES),
    (check_momentum_sgd, SGD_CASES),
    (check_find_overflow, SGD_CASES),
    (check_skipped_momentum_sgd, SGD_CASES[:1]),
]


def _conv_y(case: ConvCase) -> Shape:
    height, width = naive.num_windows(case.x, case.w[1:3], case.stride, case.pad)
    return (case.x[0], height, width, case.w[0])
