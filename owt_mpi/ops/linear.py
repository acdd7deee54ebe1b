"""The product of rows with a weight matrix, plus bias, perhaps rectified and dropped: a fully connected layer."""

from math import prod

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, DropoutMask, Shape
from owt_mpi.ops.shapes import check_rank
from owt_mpi.ops.tail import TailedOp


class LinearOp(TailedOp):
    """x (n, inputs), w (outputs, inputs), b (outputs,) or absent -> y = x w' + b, (n, outputs), and its tail."""

    def out_shape(self, *shapes: Shape) -> Shape:
        x, w, *b = shapes
        check_rank("linear", "x", x, "n inputs")
        check_rank("linear", "w", w, "outputs inputs")
        if x[1] != w[1]:
            raise ValueError(f"linear: x of shape {x} has {x[1]} features, but w of shape {w} takes {w[1]}")
        if b and b[0] != (w[0],):
            raise ValueError(f"linear: b has shape {b[0]}, but w of shape {w} needs ({w[0]},)")
        return (x[0], w[0])

    def forward(self, *xs: Array) -> Array:
        self.x, self.w, *b = xs
        return self.keep(self.backend.linear(self.x, self.w, b[0] if b else None, self.relu, self.drop))

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gy = self.before_tail(gy)
        gx = self.backend.linear_grad_x(gy, self.w) if self.needs_grad[0] else None
        gw = self.backend.linear_grad_w(gy, self.x) if self.needs_grad[1] else None
        return (gx, gw) if len(self.needs_grad) == 2 else (gx, gw, self.backend.bias_grad(gy))

    def multiply_adds(self, *shapes: Shape) -> int:
        return shapes[0][0] * prod(shapes[1])


def linear(x: Tensor, w: Tensor, b: Tensor | None, relu: bool = False, drop: DropoutMask | None = None) -> Tensor:
    """Return x w' + b, with `relu` max(., 0), with `drop` dropout of that."""
    return LinearOp(relu, drop)(*((x, w) if b is None else (x, w, b)))
