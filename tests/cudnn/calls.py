"""Calls of Cudnn that the tests make, on arrays of one geometry that nothing is square in."""

import numpy as np

from owt_mpi.backends.cudnn_graphs import B, Conv, W, X, Y
from tests.cudnn.stand_ins import FakeArray

STRIDE, PAD = (2, 3), (1, 2)
SHAPES = {X: (3, 11, 8, 5), W: (6, 2, 4, 5), Y: (3, 6, 3, 6), B: (6,)}
FORWARD = Conv("conv2d", SHAPES[X], SHAPES[W], SHAPES[Y], STRIDE, PAD, "fp32", bias=True, relu=True)


def arrays(dtype=np.float32, **addresses):
    """x, w, y and b, each at an address of its own; those given by letter are put elsewhere."""
    where = {X: addresses.get("x", 512), W: addresses.get("w", 1024), Y: addresses.get("y", 1536), B: 2048}
    return tuple(FakeArray(SHAPES[name], dtype, where[name]) for name in (X, W, Y, B))


def forward(cudnn, relu=True, dtype=np.float32, **addresses):
    x, w, y, b = arrays(dtype, **addresses)
    cudnn.conv2d(x, w, b, STRIDE, PAD, y, relu)
