"""Maxima over sliding windows."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.ops.shapes import check_rank, window_output


class MaxPool2dOp(Op):
    """x (n, h, w, c) -> y (n, h', w', c); the gradient goes to the first maximum of each window."""

    def __init__(self, kernel: Pair, stride: Pair, pad: Pair) -> None:
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def out_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        check_rank("max_pool2d", "x", x, "n h w c")
        return (x[0], *window_output("max_pool2d", x, self.kernel, self.stride, self.pad), x[3])

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        y, self.workspace = self.backend.max_pool2d(xs[0], self.kernel, self.stride, self.pad)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.max_pool2d_grad(gy, self.workspace, self.kernel, self.stride, self.pad, self.x_shape),)


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return the maximum of each window; padding never wins."""
    return MaxPool2dOp(kernel, stride, pad)(x)
