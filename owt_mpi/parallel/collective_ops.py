"""Differentiable collectives: the backward of each is its exact adjoint.

The objective is the sum over ranks of each rank's own loss. Slicing the gradient of an all-gather instead of
reduce-scattering it would drop what the other ranks' losses owe to this rank's block; with one rank nobody would see.
"""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.comm.base import Communicator
from owt_mpi.spans import about


class AllGatherOp(Op):
    """The ranks' blocks joined along `axis`; backward: reduce-scatter along it. `layer` is the layer they are for."""

    def __init__(self, comm: Communicator, axis: int, layer: str = "") -> None:
        self.comm, self.axis, self.layer = comm, axis, layer

    def out_shape(self, *shapes: Shape) -> Shape:
        shape = list(shapes[0])
        shape[self.axis] *= self.comm.size
        return tuple(shape)

    def forward(self, *xs: Array) -> Array:
        with about(self.layer):
            return self.comm.start_all_gather(xs[0], self.axis).wait()

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        with about(self.layer):
            return (self.comm.start_reduce_scatter(self.backend.xp.ascontiguousarray(gy), self.axis).wait(),)


class ReduceScatterOp(Op):
    """This rank's block, along `axis`, of the sum over ranks; backward: all-gather along it. `layer` made them."""

    def __init__(self, comm: Communicator, axis: int, layer: str = "") -> None:
        self.comm, self.axis, self.layer = comm, axis, layer

    def out_shape(self, *shapes: Shape) -> Shape:
        shape = list(shapes[0])
        if shape[self.axis] % self.comm.size:
            raise ValueError(
                f"reduce_scatter: axis {self.axis} of {shapes[0]} is no multiple of {self.comm.size} ranks"
            )
        shape[self.axis] //= self.comm.size
        return tuple(shape)

    def forward(self, *xs: Array) -> Array:
        with about(self.layer):
            return self.comm.start_reduce_scatter(self.backend.xp.ascontiguousarray(xs[0]), self.axis).wait()

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        with about(self.layer):
            return (self.comm.start_all_gather(self.backend.xp.ascontiguousarray(gy), self.axis).wait(),)


def all_gather(x: Tensor, comm: Communicator, axis: int, layer: str = "") -> Tensor:
    """Return the ranks' blocks joined along `axis`, in rank order, for `layer`."""
    return AllGatherOp(comm, axis, layer)(x)


def reduce_scatter(x: Tensor, comm: Communicator, axis: int, layer: str = "") -> Tensor:
    """Return this rank's block, along `axis`, of the sum over ranks of x, which `layer` made."""
    return ReduceScatterOp(comm, axis, layer)(x)
