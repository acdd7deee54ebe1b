"""A bias added to every row, perhaps rectified."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class AddBiasOp(Op):
    """x (n, outputs), b (outputs,) -> y = x + b; with `relu` max(y, 0)."""

    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

    def out_shape(self, *shapes: Shape) -> Shape:
        x, b = shapes
        check_rank("add_bias", "x", x, "n outputs")
        if b != (x[1],):
            raise ValueError(f"add_bias: b has shape {b}, but x of shape {x} needs ({x[1]},)")
        return x

    def forward(self, *xs: Array) -> Array:
        y = self.backend.add_bias(xs[0], xs[1], self.relu)
        self.y = y if self.relu else None
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        if self.relu:
            gy = self.backend.relu_grad(gy, self.y)
        return gy, self.backend.bias_grad(gy)


def add_bias(x: Tensor, b: Tensor, relu: bool = False) -> Tensor:
    """Return x + b, row by row, with `relu` max(., 0)."""
    return AddBiasOp(relu)(x, b)
