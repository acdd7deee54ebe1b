"""The rectified linear unit."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape


class ReluOp(Op):
    """y = max(x, 0), element by element; the gradient at 0 is 0."""

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        self.y = self.backend.relu(xs[0])
        return self.y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.relu_grad(gy, self.y),)


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return ReluOp()(x)
