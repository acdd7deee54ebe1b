"""Linear layers whose sums have one order at any number of ranks, in every scheme."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from owt_mpi.autograd import Op, Parameter, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.nn.layers import NO_TAIL, Dropout, Linear, Tail
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context, Module, Sequential
from owt_mpi.ops.add_bias import AddBiasOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.proof.fixed_order.pieces import Pieces, pairwise_sum


def in_fixed_order(model: Model, pieces: Pieces, rows_per_head: int) -> Model:
    """Return `model`, its Linear layers computing in pieces.

    A head, or a group's copy of it, sees `rows_per_head` rows of the batch in an iteration, after which it is updated.
    Gradients that go back through a Dropout before the first Linear layer are parts of sums over ranks, which its scale
    must not round: there it only masks, and the trunk's output is scaled.
    """
    layers: dict[str, Module] = {}
    scale = 1.0
    for name, layer in model.head.layers.items():
        if isinstance(layer, Linear):
            arithmetic = FixedOrderArithmetic(layer.inputs, layer.outputs, pieces, rows_per_head)
            layers[name] = Linear(layer.inputs, layer.outputs, layer.weight.init, layer.bias.init, arithmetic)
        elif isinstance(layer, Dropout) and not any(isinstance(before, Linear) for before in layers.values()):
            scale *= 1.0 / (1.0 - layer.rate)
            layers[name] = Dropout(layer.rate, scale=1.0)
        else:
            layers[name] = layer
    return Model(model.name, model.spec, ScaledTrunk(model.trunk, scale), Sequential(layers), model.loss)


class ScaledTrunk(Module):
    """`trunk`, its output multiplied by `scale` in training; the names of all below it are those of `trunk`."""

    def __init__(self, trunk: Module, scale: float) -> None:
        self.trunk, self.scale = trunk, scale

    def children(self) -> Iterator[tuple[str, Module]]:
        yield from self.trunk.children()

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        yield from self.trunk.own_parameters()

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.trunk.forward(x, ctx)
        return ScaleOp(self.scale)(y) if ctx.training and self.scale != 1.0 else y


class ScaleOp(Op):
    """y = scale * x."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        return xs[0] * xs[0].dtype.type(self.scale)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (gy * gy.dtype.type(self.scale),)


class FixedOrderArithmetic:
    """The arithmetic of a layer with `inputs` and `outputs`, of both of which a rank may have some pieces.

    The passes of an iteration bring the rows in an order of the scheme's, so gradients of parameters, which are sums
    over rows, are made when all rows have been seen: the gradient of the last pass is that of all, those before it are
    zero.
    """

    def __init__(self, inputs: int, outputs: int, pieces: Pieces, rows_per_head: int) -> None:
        self.input_piece, self.output_piece = inputs // pieces.count, outputs // pieces.count
        self.pieces = pieces
        self.weight_rows, self.bias_rows = AllRows(rows_per_head), AllRows(rows_per_head)

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        y = FixedOrderLinearOp(self, ctx.rows)(x, w)
        return y if b is None else self.add_bias(y, b, ctx, tail)

    def add_bias(self, x: Tensor, b: Tensor, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        return FixedOrderAddBiasOp(self, ctx.rows, tail)(x, b)


class AllRows:
    """Arrays with a row for each of `num_rows` rows of the batch, collected pass by pass."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._passes: list[tuple[np.ndarray, tuple[Array, ...]]] = []

    def add(self, xp: Any, rows: np.ndarray, *arrays: Array) -> tuple[Array, ...] | None:
        """Return None until all rows are there, then all passes' arrays in the order of the batch, and start anew."""
        self._passes.append((rows, arrays))
        collected = np.concatenate([rows for rows, _ in self._passes])
        if len(collected) < self.num_rows:
            return None
        order = xp.asarray(np.argsort(collected))
        joined = zip(*(arrays for _, arrays in self._passes), strict=True)
        self._passes = []
        return tuple(xp.concatenate(parts)[order] for parts in joined)


class FixedOrderLinearOp(LinearOp):
    """LinearOp without bias, all sums over pieces of inputs, outputs and rows."""

    def __init__(self, arithmetic: FixedOrderArithmetic, rows: np.ndarray) -> None:
        super().__init__()
        self.arithmetic, self.rows = arithmetic, rows

    def forward(self, *xs: Array) -> Array:
        self.x, self.w = xs
        return self._product(self.x, self.w, self.arithmetic.input_piece, self.arithmetic.output_piece)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        xp, own = self.backend.xp, self.arithmetic
        gx = self._product(gy, self.w.T, own.output_piece, own.input_piece) if self.needs_grad[0] else None
        collected = own.weight_rows.add(xp, self.rows, gy, self.x)
        gw = xp.zeros(self.w.shape, self.w.dtype)
        if collected is not None:
            all_gy, all_x = collected
            for o in range(0, len(gw), own.output_piece):
                for i in range(0, gw.shape[1], own.input_piece):
                    outputs, inputs = slice(o, o + own.output_piece), slice(i, i + own.input_piece)
                    parts = self._row_pieces(all_gy[:, outputs]).transpose(0, 2, 1) @ self._row_pieces(all_x[:, inputs])
                    gw[outputs, inputs] = pairwise_sum(parts)
        return gx, gw

    def _product(self, x: Array, w: Array, inputs: int, outputs: int) -> Array:
        """Return x w', each piece of rows times each piece of w, whose blocks are (outputs, inputs)."""
        xp, rows = self.backend.xp, _check_runs(self.rows, self.arithmetic.pieces.head_rows)
        in_pieces, out_pieces, row_pieces = x.shape[1] // inputs, len(w) // outputs, len(x) // rows
        x_pieces = xp.ascontiguousarray(x.reshape(row_pieces, rows, in_pieces, inputs).transpose(2, 0, 1, 3))
        w_pieces = xp.ascontiguousarray(w.reshape(out_pieces, outputs, in_pieces, inputs).transpose(0, 2, 3, 1))
        y = xp.empty((row_pieces, rows, out_pieces, outputs), x.dtype)
        for o in range(out_pieces):
            y[:, :, o] = pairwise_sum(x_pieces @ w_pieces[o, :, None])
        return y.reshape(len(x), len(w))

    def _row_pieces(self, x: Array) -> Array:
        return self.backend.xp.ascontiguousarray(x).reshape(-1, self.arithmetic.pieces.rows, x.shape[1])


class FixedOrderAddBiasOp(AddBiasOp):
    """AddBiasOp, the bias gradient summed over pieces of rows."""

    def __init__(self, arithmetic: FixedOrderArithmetic, rows: np.ndarray, tail: Tail) -> None:
        super().__init__(tail.relu, tail.drop)
        self.arithmetic, self.rows = arithmetic, rows

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gy = self.before_tail(gy)
        xp, own = self.backend.xp, self.arithmetic
        collected = own.bias_rows.add(xp, self.rows, gy)
        gb = xp.zeros(gy.shape[1:], gy.dtype)
        if collected is not None:
            pieces = collected[0].reshape(-1, own.pieces.rows, gy.shape[1])
            gb = pairwise_sum(sum_in_turn(pieces.transpose(1, 0, 2)))
        return gy, gb


def sum_in_turn(parts: Array) -> Array:
    """Return the sum of `parts` along axis 0, one after the other."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _check_runs(rows: np.ndarray, length: int) -> int:
    """Return `length`; assert that `rows` are runs of so many neighbours that start at a multiple of it."""
    runs = rows.reshape(-1, length)
    assert (runs[:, 0] % length == 0).all()
    assert (runs == runs[:, :1] + np.arange(length)).all()
    return length
