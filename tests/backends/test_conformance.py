"""Every backend computes the conformance table, leaves its inputs alone and refuses what does not fit."""

import numpy as np
import pytest

from owt_mpi.backends.precision import exact_dtype
from tests.backends.conformance import TABLE, values
from tests.backends.conformance_rows import ROWS_TABLE

ROWS = [
    pytest.param(check, case, id=f"{check.__name__[6:]}-{case.name}")
    for check, cases in TABLE + ROWS_TABLE
    for case in cases
]
ONE, NONE = (1, 1), (0, 0)


@pytest.mark.parametrize(("check", "case"), ROWS)
def test_computes(backend, dtype, check, case):
    check(backend, case, dtype)


def test_results_do_not_alias_one_another(backend, dtype):
    x, w = backend.from_host(values((2, 6, 5, 4), dtype, 1)), backend.from_host(values((3, 3, 2, 4), dtype, 2))
    first = backend.conv2d(x, w, None, ONE, NONE)
    kept = backend.to_host(first).copy()
    backend.conv2d(backend.from_host(values((2, 6, 5, 4), dtype, 3)), w, None, ONE, NONE)
    np.testing.assert_array_equal(backend.to_host(first), kept)


def exact(x):
    """Return x in the type of master weights."""
    return x.astype(exact_dtype(x.dtype))


# name: what is called with an x of shape (2, 5, 6, 3), and what the error must say
MISFITS = {
    "channels": (lambda b, x: b.conv2d(x, x[..., :2], None, ONE, NONE), "3 channels.* takes 2"),
    "large_kernel": (lambda b, x: b.conv2d(x[:, :4], x, None, ONE, NONE), "does not fit.* smaller kernel"),
    "three_axes": (lambda b, x: b.conv2d(x[0], x, None, ONE, NONE), "x has shape .* four axes"),
    "no_images": (lambda b, x: b.conv2d(x[:0], x, None, ONE, NONE), "x has shape .* four axes of size >= 1"),
    "stride_0": (lambda b, x: b.conv2d(x, x, None, (0, 1), NONE), r"stride \(0, 1\) must be at least 1"),
    "bias": (lambda b, x: b.conv2d(x, x, x[0, 0, 0], ONE, NONE), r"b has shape \(3,\), but \(2,\)"),
    "gy_of_grad_x": (lambda b, x: b.conv2d_grad_x(x, x, ONE, NONE, x.shape), r"gy has shape .* \(2, 1, 1, 2\)"),
    "gy_of_grad_w": (lambda b, x: b.conv2d_grad_w(x, x, ONE, NONE, x.shape, True), r"gy has shape .* \(2, 1, 1, 2\)"),
    "pool_pad": (lambda b, x: b.max_pool2d(x, (2, 3), ONE, (1, 3)), "must be smaller than the kernel"),
    "pool_kernel": (lambda b, x: b.avg_pool2d(x, (6, 2), ONE, NONE), "does not fit"),
    "gy_of_avg": (lambda b, x: b.avg_pool2d_grad(x, (2, 2), ONE, NONE, x.shape), r"gy has shape .* \(2, 4, 5, 3\)"),
    "even_lrn": (lambda b, x: b.lrn(x, 4, 1.0, 0.75, 1.0), "size 4 must be odd.* try 3"),
    "sgd": (
        lambda b, x: b.momentum_sgd(exact(x), exact(x), exact(x)[:1], 0.1, 0.9, 0.0),
        r"g has shape \(1, 5, 6, 3\)",
    ),
    "sgd_order": (lambda b, x: b.momentum_sgd(*[exact(x).copy(order="F")] * 3, 0.1, 0.9, 0.0), "w .* not C-contiguous"),
}


@pytest.mark.parametrize(("call", "message"), MISFITS.values(), ids=MISFITS)
def test_refuses_what_does_not_fit(backend, dtype, call, message):
    with pytest.raises(ValueError, match=message):
        call(backend, backend.from_host(np.ones((2, 5, 6, 3), dtype)))


def test_refuses_max_pool_gradients_of_another_shape(backend, dtype):
    _, workspace = backend.max_pool2d(backend.from_host(np.ones((2, 5, 6, 3), dtype)), (2, 2), ONE, NONE)
    gy = backend.from_host(np.ones((2, 4, 5, 3), dtype))
    with pytest.raises(ValueError, match=r"gy has shape .* \(2, 5, 5, 3\)"):
        backend.max_pool2d_grad(gy, workspace, (2, 2), ONE, NONE, (2, 6, 6, 3))


def test_refuses_other_dtypes_and_mixed_ones(backend, dtype):
    x = backend.from_host(np.ones((2, 5, 6, 3), dtype))
    with pytest.raises(TypeError, match=r"x is int32, but this backend computes in b?float"):
        backend.avg_pool2d(x.astype(np.int32), (2, 2), ONE, NONE)
    with pytest.raises(TypeError, match=f"w is int32 but x is {dtype}"):
        backend.conv2d(x, x.astype(np.int32), None, ONE, NONE)
