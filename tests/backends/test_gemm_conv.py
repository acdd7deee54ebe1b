"""Convolutions by im2col: the columns of some images at a time, and no more memory than for those."""

import numpy as np
import pytest

from owt_mpi.backends.gemm_conv import GemmConv

COLUMN_BYTES = 1 << 14
X, W = (6, 9, 8, 5), (4, 3, 3, 5)
Y = (6, 9, 8, 4)
WHERE = ((1, 1), (1, 1))


@pytest.mark.parametrize("operation", ["conv2d", "conv2d_grad_x", "conv2d_grad_w"])
def test_columns_are_gone_before_the_next_are_made(cuda, operation):
    conv = GemmConv(cuda.xp, cuda._kernels, cuda._add_bias_and_relu, COLUMN_BYTES)
    x, w, y = (cuda.from_host(np.ones(shape, np.float32)) for shape in (X, W, Y))
    calls = {
        "conv2d": lambda: conv.conv2d(x, w, None, *WHERE, y),
        "conv2d_grad_x": lambda: conv.conv2d_grad_x(y, w, *WHERE, x),
        "conv2d_grad_w": lambda: conv.conv2d_grad_w(y, x, *WHERE, w),
    }
    pool, taken = cuda.xp.get_default_memory_pool(), []
    before = pool.used_bytes()

    def malloc(size):
        memory = pool.malloc(size)
        taken.append(pool.used_bytes() - before)
        return memory

    with cuda.xp.cuda.using_allocator(malloc):
        calls[operation]()
        cuda.synchronize()
    assert len(taken) > 2
    assert COLUMN_BYTES / 2 < max(taken) < COLUMN_BYTES * 1.2  # a part's product in the gradient of w comes on top
