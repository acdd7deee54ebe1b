"""Means over sliding windows."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.ops.shapes import check_rank, window_output


class AvgPool2dOp(Op):
    """x (n, h, w, c) -> y (n, h', w', c), the mean of the elements of each window that lie inside the image."""

    def __init__(self, kernel: Pair, stride: Pair, pad: Pair) -> None:
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def out_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        check_rank("avg_pool2d", "x", x, "n h w c")
        return (x[0], *window_output("avg_pool2d", x, self.kernel, self.stride, self.pad), x[3])

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        return self.backend.avg_pool2d(xs[0], self.kernel, self.stride, self.pad)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.avg_pool2d_grad(gy, self.kernel, self.stride, self.pad, self.x_shape),)


def avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, pad: Pair = (0, 0)) -> Tensor:
    """Return the mean of each window, padding not counted."""
    return AvgPool2dOp(kernel, stride, pad)(x)
