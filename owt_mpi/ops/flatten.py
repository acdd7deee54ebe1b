"""One row of features an example."""

from math import prod

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape


class FlattenOp(Op):
    """x (n, ...) -> y (n, features), in memory order: features of images are ordered h, w, c."""

    def out_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], prod(shapes[0][1:]))

    def forward(self, *xs: Array) -> Array:
        self.x_shape = xs[0].shape
        return xs[0].reshape(self.out_shape(self.x_shape))

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (gy.reshape(self.x_shape),)


def flatten(x: Tensor) -> Tensor:
    """Return x as (n, features)."""
    return FlattenOp()(x)
