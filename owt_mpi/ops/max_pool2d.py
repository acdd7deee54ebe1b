"""Maxima over sliding windows."""

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, Pair
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.pool2d import Pool2dOp


class MaxPool2dOp(Pool2dOp):
    """The maximum of each window; the gradient goes to the first maximum.

    With `rectifies`, the gradient is that of max(x, 0) before the pooling too, of which x is the result: it came
    through where the maximum is above 0, so that only windows are looked at, and not x.
    """

    def __init__(self, kernel: Pair, stride: Pair, pad: Pair, rectifies: bool = False) -> None:
        super().__init__(kernel, stride, pad)
        self.rectifies = rectifies
        self.y: Array | None = None

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        y, self.workspace = self.backend.max_pool2d(xs[0], self.kernel, self.stride, self.pad)
        self.y = y if self.rectifies else None
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        if self.rectifies:
            gy = self.backend.relu_grad(gy, self.y)
        gx = self.backend.max_pool2d_grad(gy, self.workspace, self.kernel, self.stride, self.pad, self.x_shape)
        return (gx,)


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return the maximum of each window of images x (n, h, w, c); padding never wins."""
    return MaxPool2dOp(kernel, stride, pad)(x)


def max_pool2d_of_rectified(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return max_pool2d of x, made by a convolution with `relu` for this alone, and free the values of x."""
    made_by = x.creator
    if made_by is None:  # there is no tape
        return max_pool2d(x, kernel, stride, pad)
    assert isinstance(made_by, Conv2dOp)
    made_by.leave_relu_grad()
    y = MaxPool2dOp(kernel, stride, pad, rectifies=True)(x)
    x.data = None
    return y
