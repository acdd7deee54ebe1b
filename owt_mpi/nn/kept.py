"""What a forward pass keeps in memory for the backward pass, operation by operation, worked out from shapes alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from owt_mpi.autograd import Op, Parameter, Tensor
from owt_mpi.backends.kept import workspace_bytes
from owt_mpi.nn.module import Module
from owt_mpi.nn.walk import walk
from owt_mpi.ops.add_bias import AddBiasOp
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.dropout import DropoutOp
from owt_mpi.ops.flatten import FlattenOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.ops.lrn import LrnOp
from owt_mpi.ops.max_pool2d import MaxPool2dOp
from owt_mpi.ops.relu import ReluOp


@dataclass(frozen=True)
class Step:
    """One operation in bytes. A tensor on the tape keeps its values until the operation that made it has gone back.

    `kept` are output and workspace; `grad_y` is the output's gradient, `grad_x` those of the inputs, `grad_w` those of
    the parameters that its backward makes.
    """

    op: Op
    kept: int
    grad_y: int
    grad_x: int
    grad_w: int


def steps_of(root: Module, x: Tensor, itemsize: int, backend: str) -> tuple[list[Step], Tensor]:
    """Return the steps of `root` applied to the symbolic `x` in training, and its output.

    A ReLU right behind a layer that can rectify by itself is joined with it, and a Dropout behind a ReLU, as Sequential
    does: one output is kept. Of a convolution with ReLU and max pooling behind it the pooling's alone is.
    """
    visits, output = walk(root, x)
    made = [(y, op) for visit in visits for y, op in zip(visit.made, visit.ops, strict=True)]
    pooled = {id(relu.inputs[0].creator) for _, op in made if (relu := _pooled_relu(op)) is not None}
    return [_step(op, y, itemsize, backend, is_let_go=id(op) in pooled) for y, op in made], output


def kept_bytes(steps: Iterable[Step]) -> int:
    """Return what is kept when all steps have run."""
    return sum(step.kept for step in steps)


def backward_peak_bytes(steps: Iterable[Step], weight_grads: int) -> int:
    """Return the most that is held at once while the steps run backward, the input of the first not counted.

    A parameter's gradient counts `weight_grads` times while it is made. Gradients that wait for another branch of the
    network are not counted.
    """
    held = peak = 0
    for step in steps:
        held += step.kept
        peak = max(peak, held + step.grad_y + step.grad_x + weight_grads * step.grad_w)
    return peak


def _is_joined(op: Op) -> bool:
    """Return whether the operation before `op` does its work too."""
    before = op.inputs[0].creator
    if isinstance(op, DropoutOp):  # convolutions do not drop
        return isinstance(before, ReluOp) and not isinstance(before.inputs[0].creator, Conv2dOp)
    return isinstance(op, ReluOp) and isinstance(before, Conv2dOp | LinearOp | AddBiasOp)


def _pooled_relu(op: Op) -> ReluOp | None:
    """Return the ReLU behind a convolution that `op`, max pooling, goes back through."""
    before = op.inputs[0].creator if isinstance(op, MaxPool2dOp) else None
    return before if isinstance(before, ReluOp) and isinstance(before.inputs[0].creator, Conv2dOp) else None


def _step(op: Op, y: Tensor, itemsize: int, backend: str, is_let_go: bool) -> Step:
    size = prod(y.shape)
    is_view = isinstance(op, FlattenOp)
    grads = [(x, prod(x.shape) * itemsize) for x, needed in zip(op.inputs, op.needs_grad, strict=True) if needed]
    return Step(
        op=op,
        kept=(0 if is_view or is_let_go or _is_joined(op) else size * itemsize)
        + _workspace(op, size, itemsize, backend),
        grad_y=size * itemsize,
        grad_x=0 if is_view else sum(num_bytes for x, num_bytes in grads if not isinstance(x, Parameter)),
        grad_w=sum(num_bytes for x, num_bytes in grads if isinstance(x, Parameter)),
    )


def _workspace(op: Op, size: int, itemsize: int, backend: str) -> int:
    if isinstance(op, MaxPool2dOp):
        return workspace_bytes(backend, "max_pool2d", size, itemsize, prod(op.kernel))
    if isinstance(op, LrnOp):
        return workspace_bytes(backend, "lrn", size, itemsize)
    masks = isinstance(op, DropoutOp) and not _is_joined(op)
    return workspace_bytes(backend, "dropout", size, itemsize) if masks else 0
