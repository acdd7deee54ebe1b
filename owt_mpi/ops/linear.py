"""The product of rows with a weight matrix, plus bias, perhaps rectified: a fully connected layer."""

from math import prod

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class LinearOp(Op):
    """x (n, inputs), w (outputs, inputs), b (outputs,) or absent -> y = x w' + b, (n, outputs); `relu`: max(y, 0)."""

    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

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
        y = self.backend.linear(self.x, self.w, b[0] if b else None, self.relu)
        self.y = y if self.relu else None
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        if self.relu:
            gy = self.backend.relu_grad(gy, self.y)
        gx = self.backend.linear_grad_x(gy, self.w) if self.needs_grad[0] else None
        gw = self.backend.linear_grad_w(gy, self.x) if self.needs_grad[1] else None
        return (gx, gw) if len(self.needs_grad) == 2 else (gx, gw, self.backend.bias_grad(gy))

    def multiply_adds(self, *shapes: Shape) -> int:
        return shapes[0][0] * prod(shapes[1])


def linear(x: Tensor, w: Tensor, b: Tensor | None, relu: bool = False) -> Tensor:
    """Return x w' + b, with `relu` max(., 0)."""
    return LinearOp(relu)(*((x, w) if b is None else (x, w, b)))
