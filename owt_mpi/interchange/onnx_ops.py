"""Each operation in ONNX's: a table that users' own operations can be put into (docs/interchange.md).

Images are (n, c, h, w) in ONNX, as its operators have them, and (n, h, w, c) here; all else has the same axes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from owt_mpi.autograd import Op, Tensor
from owt_mpi.ops.add import AddOp
from owt_mpi.ops.add_bias import AddBiasOp
from owt_mpi.ops.avg_pool2d import AvgPool2dOp
from owt_mpi.ops.block_columns import BlockColumnsOp
from owt_mpi.ops.block_linear import BlockLinearOp
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.flatten import FlattenOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.ops.lrn import LrnOp
from owt_mpi.ops.max_pool2d import MaxPool2dOp
from owt_mpi.ops.pool2d import Pool2dOp
from owt_mpi.ops.relu import ReluOp
from owt_mpi.ops.tail import TailedOp

TO_FILTERS = (0, 3, 1, 2)  # of (c_out, kh, kw, c_in)
TO_ROWS = (0, 2, 3, 1)  # of (n, c, h, w)


class Nodes(Protocol):
    """The ONNX graph that an operation adds its nodes to."""

    def value(self, x: Tensor, axes: Sequence[int] = ()) -> str:
        """Return the name of an operation's input; its axes are in the order `axes` of ours where that is given."""
        ...

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a new constant."""
        ...

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output, and return the name of that."""
        ...

    def nodes(self, operator: str, num_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node, and return the names of its outputs."""
        ...


# adds the nodes of an operation, and returns the name of its result
Exporter = Callable[[Nodes, Any], str]


def _conv2d(to: Nodes, op: Conv2dOp) -> str:
    x, w, *b = op.inputs
    inputs = (to.value(x), to.value(w, TO_FILTERS), *map(to.value, b))
    y = to.node("Conv", *inputs, kernel_shape=w.shape[1:3], strides=op.stride, pads=(*op.pad, *op.pad))
    return _with_tail(to, op, y)


def _linear(to: Nodes, op: LinearOp) -> str:
    return _with_tail(to, op, to.node("Gemm", *map(to.value, op.inputs), transB=1))


def _add(to: Nodes, op: AddOp) -> str:
    return to.node("Add", *map(to.value, op.inputs))


def _add_bias(to: Nodes, op: AddBiasOp) -> str:
    return _with_tail(to, op, to.node("Add", *map(to.value, op.inputs)))


def _relu(to: Nodes, op: ReluOp) -> str:
    return _with_tail(to, op, to.value(op.inputs[0]))


def _with_tail(to: Nodes, op: TailedOp, y: str) -> str:
    assert op.drop is None, "the graph is that of scoring"
    return to.node("Relu", y) if op.relu else y


def _max_pool2d(to: Nodes, op: MaxPool2dOp) -> str:
    return to.node("MaxPool", to.value(op.inputs[0]), **_window(op))


def _avg_pool2d(to: Nodes, op: AvgPool2dOp) -> str:
    return to.node("AveragePool", to.value(op.inputs[0]), count_include_pad=0, **_window(op))


def _window(op: Pool2dOp) -> dict[str, Any]:
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": (*op.pad, *op.pad)}


def _lrn(to: Nodes, op: LrnOp) -> str:
    """ONNX divides its alpha by the size."""
    size, alpha, beta, k = op.settings
    return to.node("LRN", to.value(op.inputs[0]), size=size, alpha=alpha * size, beta=beta, bias=k)


def _flatten(to: Nodes, op: FlattenOp) -> str:
    """Images are flattened as h, w, c: what reads the numbers has its weights in that order."""
    (x,) = op.inputs
    return to.node("Flatten", to.value(x, TO_ROWS) if len(x.shape) == 4 else to.value(x), axis=1)


def _block_columns(to: Nodes, op: BlockColumnsOp) -> str:
    blocks = to.node("Reshape", to.value(op.inputs[0]), to.constant(np.array([0, -1, op.width])))
    return to.node("Flatten", _slice(to, blocks, (op.first, op.first + op.count), (0, op.length)), axis=1)


def _block_linear(to: Nodes, op: BlockLinearOp) -> str:
    """One product for each block, of the features that it sees; see BlockLinearOp."""
    assert (op.first, op.count) == (0, op.blocks), "the graph is that of a whole layer"
    x, cross, w, b = op.inputs
    width, cross_width = x.shape[1] // op.blocks, cross.shape[1] // op.blocks
    rows = [to.nodes("Split", op.blocks, to.value(each), axis=0) for each in (w, b)]
    outputs = []
    for k, (w_k, b_k) in enumerate(zip(*rows, strict=True)):
        spans = [(cross, 0, k * cross_width), (x, k * width, (k + 1) * width)]
        spans.append((cross, (k + 1) * cross_width, op.blocks * cross_width))
        parts = [_slice(to, to.value(source), (first, stop)) for source, first, stop in spans if first < stop]
        outputs.append(to.node("Gemm", to.node("Concat", *parts, axis=1), w_k, b_k, transB=1))
    return to.node("Concat", *outputs, axis=1)


def _slice(to: Nodes, x: str, *spans: tuple[int, int]) -> str:
    """Return [:, first:stop], or more such spans of the axes after the first."""
    first, stop = (np.array(each) for each in zip(*spans, strict=True))
    return to.node("Slice", x, *map(to.constant, (first, stop, np.arange(1, len(spans) + 1))))


EXPORTERS: dict[type[Op], Exporter] = {
    AddOp: _add,
    AddBiasOp: _add_bias,
    AvgPool2dOp: _avg_pool2d,
    BlockColumnsOp: _block_columns,
    BlockLinearOp: _block_linear,
    Conv2dOp: _conv2d,
    FlattenOp: _flatten,
    LinearOp: _linear,
    LrnOp: _lrn,
    MaxPool2dOp: _max_pool2d,
    ReluOp: _relu,
}
