"""What the pooling operations share."""

from owt_mpi.autograd import Op
from owt_mpi.backends.base import Pair, Shape
from owt_mpi.ops.shapes import check_rank, window_output


class Pool2dOp(Op):
    """x (n, h, w, c) -> y (n, h', w', c), one number for each window and channel."""

    def __init__(self, kernel: Pair, stride: Pair, pad: Pair) -> None:
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def out_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        check_rank(self.name, "x", x, "n h w c")
        return (x[0], *window_output(self.name, x, self.kernel, self.stride, self.pad), x[3])
