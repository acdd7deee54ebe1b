"""The rectified linear unit, perhaps with dropout of what it gives."""

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, DropoutMask, Shape
from owt_mpi.ops.tail import TailedOp


class ReluOp(TailedOp):
    """y = max(x, 0), element by element, and with `drop` dropout of that; the gradient at 0 is 0."""

    def __init__(self, drop: DropoutMask | None = None) -> None:
        super().__init__(True, drop)

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        return self.keep(self.backend.relu(xs[0], self.drop))

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.before_tail(gy),)


def relu(x: Tensor, drop: DropoutMask | None = None) -> Tensor:
    """Return max(x, 0), with `drop` dropout of that."""
    return ReluOp(drop)(x)
