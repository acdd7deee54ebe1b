"""Means over sliding windows."""

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, Pair
from owt_mpi.ops.pool2d import Pool2dOp


class AvgPool2dOp(Pool2dOp):
    """The mean of the elements of each window that lie inside the image."""

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        return self.backend.avg_pool2d(xs[0], self.kernel, self.stride, self.pad)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.avg_pool2d_grad(gy, self.kernel, self.stride, self.pad, self.x_shape),)


def avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return the mean of each window of images x (n, h, w, c), padding not counted."""
    return AvgPool2dOp(kernel, stride, pad)(x)
