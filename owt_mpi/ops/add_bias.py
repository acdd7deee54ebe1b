"""A bias added to every row."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class AddBiasOp(Op):
    """x (n, outputs), b (outputs,) -> y = x + b."""

    def out_shape(self, *shapes: Shape) -> Shape:
        x, b = shapes
        check_rank("add_bias", "x", x, "n outputs")
        if b != (x[1],):
            raise ValueError(f"add_bias: b has shape {b}, but x of shape {x} needs ({x[1]},)")
        return x

    def forward(self, *xs: Array) -> Array:
        return xs[0] + xs[1]

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return gy, gy.sum(axis=0)


def add_bias(x: Tensor, b: Tensor) -> Tensor:
    """Return x + b, row by row."""
    return AddBiasOp()(x, b)
