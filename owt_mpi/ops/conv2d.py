"""2-d convolution (cross-correlation) with bias, perhaps rectified."""

from math import prod

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.ops.shapes import check_rank, window_output
from owt_mpi.ops.tail import TailedOp


class Conv2dOp(TailedOp):
    """x (n, h, w, c_in), w (c_out, kh, kw, c_in), b (c_out,) or absent -> y (n, h', w', c_out); `relu`: max(y, 0)."""

    def __init__(self, stride: Pair, pad: Pair, relu: bool = False) -> None:
        super().__init__(relu)
        self.stride, self.pad = stride, pad

    def out_shape(self, *shapes: Shape) -> Shape:
        x, w, *b = shapes
        check_rank("conv2d", "x", x, "n h w c")
        check_rank("conv2d", "w", w, "c_out kh kw c_in")
        if x[3] != w[3]:
            raise ValueError(f"conv2d: x of shape {x} has {x[3]} channels, but w of shape {w} takes {w[3]}")
        if b and b[0] != (w[0],):
            raise ValueError(f"conv2d: b has shape {b[0]}, but w of shape {w} needs ({w[0]},)")
        return (x[0], *window_output("conv2d", x, (w[1], w[2]), self.stride, self.pad), w[0])

    def forward(self, *xs: Array) -> Array:
        self.x, self.w, *b = xs
        return self.keep(self.backend.conv2d(self.x, self.w, b[0] if b else None, self.stride, self.pad, self.relu))

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gy = self.before_tail(gy)
        x, w = self.x, self.w
        with_bias = len(self.needs_grad) == 3
        gx = gw = gb = None
        if any(self.needs_grad[1:]):
            gw, gb = self.backend.conv2d_grad_w(gy, x, self.stride, self.pad, w.shape, with_bias)
        if self.needs_grad[0]:
            gx = self.backend.conv2d_grad_x(gy, w, self.stride, self.pad, x.shape)
        return (gx, gw, gb) if with_bias else (gx, gw)

    def multiply_adds(self, *shapes: Shape) -> int:
        return prod(self.out_shape(*shapes)) * prod(shapes[1][1:])


def conv2d(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Pair = (1, 1), pad: Pair = (0, 0), relu: bool = False
) -> Tensor:
    """Return the convolution of images x with filters w, plus b; with `relu` max(., 0)."""
    return Conv2dOp(stride, pad, relu)(*((x, w) if b is None else (x, w, b)))
