"""A bias added to every row, perhaps rectified and dropped."""

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, DropoutMask, Shape
from owt_mpi.ops.shapes import check_rank
from owt_mpi.ops.tail import TailedOp


class AddBiasOp(TailedOp):
    """x (n, outputs), b (outputs,) -> y = x + b, and the tail of that."""

    def out_shape(self, *shapes: Shape) -> Shape:
        x, b = shapes
        check_rank("add_bias", "x", x, "n outputs")
        if b != (x[1],):
            raise ValueError(f"add_bias: b has shape {b}, but x of shape {x} needs ({x[1]},)")
        return x

    def forward(self, *xs: Array) -> Array:
        return self.keep(self.backend.add_bias(xs[0], xs[1], self.relu, self.drop))

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gy = self.before_tail(gy)
        return gy, self.backend.bias_grad(gy)


def add_bias(x: Tensor, b: Tensor, relu: bool = False, drop: DropoutMask | None = None) -> Tensor:
    """Return x + b, row by row, with `relu` max(., 0), with `drop` dropout of that."""
    return AddBiasOp(relu, drop)(x, b)
