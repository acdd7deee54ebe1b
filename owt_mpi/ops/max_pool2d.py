"""Maxima over sliding windows."""

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, Pair
from owt_mpi.ops.pool2d import Pool2dOp


class MaxPool2dOp(Pool2dOp):
    """The maximum of each window; the gradient goes to the first maximum."""

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        y, self.workspace = self.backend.max_pool2d(xs[0], self.kernel, self.stride, self.pad)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gx = self.backend.max_pool2d_grad(gy, self.workspace, self.kernel, self.stride, self.pad, self.x_shape)
        return (gx,)


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return the maximum of each window of images x (n, h, w, c); padding never wins."""
    return MaxPool2dOp(kernel, stride, pad)(x)
