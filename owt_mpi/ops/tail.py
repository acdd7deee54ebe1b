"""What may follow an operation in the same pass over memory: ReLU, and dropout of that."""

from owt_mpi.autograd import Op
from owt_mpi.backends.base import Array, DropoutMask


class TailedOp(Op):
    """An operation whose result is rectified if `relu`, and that then dropped by `drop`, if there is one.

    The backward pass needs the output alone: where it is 0, nothing came through or nothing was kept.
    """

    def __init__(self, relu: bool = False, drop: DropoutMask | None = None) -> None:
        assert relu or drop is None, "dropout alone is an operation of its own"
        self.relu, self.drop = relu, drop
        self.y: Array | None = None

    def keep(self, y: Array) -> Array:
        """Return y, the output, kept if the backward pass needs it."""
        self.y = y if self.relu else None
        return y

    def leave_relu_grad(self) -> None:
        """Keep no output: the operation behind this gives the gradient of what the ReLU was applied to."""
        assert self.drop is None
        self.relu, self.y = False, None

    def before_tail(self, gy: Array) -> Array:
        """Return the gradient of what the tail was applied to, given the output's."""
        if not self.relu:
            return gy
        return self.backend.relu_grad(gy, self.y, 1.0 if self.drop is None else self.drop.scale)
