"""The product of rows with a weight matrix, plus bias: a fully connected layer."""

from math import prod

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class LinearOp(Op):
    """x (n, inputs), w (outputs, inputs), b (outputs,) or absent -> y = x w' + b, (n, outputs)."""

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
        y = self.x @ self.w.T
        if b:
            y += b[0]
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gx = gy @ self.w if self.needs_grad[0] else None
        gw = gy.T @ self.x if self.needs_grad[1] else None
        return (gx, gw) if len(self.needs_grad) == 2 else (gx, gw, gy.sum(axis=0))

    def multiply_adds(self, *shapes: Shape) -> int:
        return shapes[0][0] * prod(shapes[1])


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Return x w' + b."""
    return LinearOp()(*((x, w) if b is None else (x, w, b)))
