"""Layers: parameters and one operation each."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, gcd, prod
from typing import Protocol

from owt_mpi import rng
from owt_mpi.autograd import Init, Parameter, Tensor
from owt_mpi.backends.base import DropoutMask, Pair
from owt_mpi.nn.init import Constant, HeNormal
from owt_mpi.nn.module import Context, Module
from owt_mpi.ops.add_bias import add_bias
from owt_mpi.ops.avg_pool2d import avg_pool2d
from owt_mpi.ops.block_columns import block_columns
from owt_mpi.ops.block_linear import block_linear
from owt_mpi.ops.conv2d import conv2d
from owt_mpi.ops.dropout import DropoutOp, dropout_mask
from owt_mpi.ops.flatten import flatten
from owt_mpi.ops.linear import linear
from owt_mpi.ops.lrn import lrn
from owt_mpi.ops.max_pool2d import max_pool2d, max_pool2d_of_rectified
from owt_mpi.ops.relu import relu

_HE, _ZERO = HeNormal(), Constant(0.0)


@dataclass(frozen=True)
class Tail:
    """What is done to a layer's result in the same go: ReLU, then `drop`; the layers after it that this is."""

    relu: bool = False
    drop: DropoutMask | None = None
    length: int = 0


NO_TAIL = Tail()


def pair(value: int | Pair) -> Pair:
    """Return (value, value) for a number, a pair as it is."""
    return (value, value) if isinstance(value, int) else value


class Conv2d(Module):
    """Convolution of (n, h, w, c_in) images with c_out filters, plus bias."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | Pair,
        stride: int | Pair = 1,
        pad: int | Pair = 0,
        weight_init: Init = _HE,
        bias_init: Init = _ZERO,
    ) -> None:
        self.stride, self.pad = pair(stride), pair(pad)
        self.weight = Parameter((c_out, *pair(kernel), c_in), weight_init)
        self.bias = Parameter((c_out,), bias_init, is_bias=True)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, self.pad)

    def forward_with(self, following: Sequence[Module], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        if type(self) is not Conv2d or not following or not following[0].is_relu:  # a subclass may do otherwise
            return super().forward_with(following, x, ctx)
        y = conv2d(x, self.weight, self.bias, self.stride, self.pad, relu=True)
        if len(following) > 1 and type(pool := following[1]) is MaxPool2d:
            return max_pool2d_of_rectified(y, pool.kernel, pool.stride, pool.pad), 2
        return y, 1


class Arithmetic(Protocol):
    """How a Linear layer, or a rank's shard of one, computes."""

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        """Return x w' (+ b), and the tail of that."""
        ...

    def add_bias(self, x: Tensor, b: Tensor, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        """Return x + b, row by row, and the tail of that."""
        ...


class PlainArithmetic:
    """One product, its sums in whatever order the backend's BLAS makes them."""

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        return linear(x, w, b, tail.relu, tail.drop)

    def add_bias(self, x: Tensor, b: Tensor, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        return add_bias(x, b, tail.relu, tail.drop)


_PLAIN = PlainArithmetic()


class Linear(Module):
    """Fully connected layer: (n, inputs) -> (n, outputs)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        weight_init: Init = _HE,
        bias_init: Init = _ZERO,
        arithmetic: Arithmetic = _PLAIN,
    ) -> None:
        self.inputs, self.outputs, self.arithmetic = inputs, outputs, arithmetic
        self.weight = Parameter((outputs, inputs), weight_init)
        self.bias = Parameter((outputs,), bias_init, is_bias=True)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return self.arithmetic.linear(x, self.weight, self.bias, ctx)

    def forward_with(self, following: Sequence[Module], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        tail = tail_of(following, self.outputs, ctx)
        return self.arithmetic.linear(x, self.weight, self.bias, ctx, tail), tail.length


class BlockLinear(Module):
    """Fully connected layer of restricted connectivity: (n, inputs) -> (n, outputs), both in `blocks` equal blocks.

    A block of outputs reads all of its own block of the inputs, and of every other block the first
    c = ceil(crosstalk * inputs / blocks) features, the cross-talk features. They stand in the order of the inputs, so
    that row r of `weight` (outputs, inputs / blocks + (blocks - 1) c) is row r of a dense layer's weights without those
    that are absent: at crosstalk 1 the layer is the dense one, at 0 it is block diagonal. ValueError if inputs or
    outputs do not come out even, or crosstalk lies outside of [0, 1].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        crosstalk: float,
        weight_init: Init = _HE,
        bias_init: Init = _ZERO,
    ) -> None:
        if not 0.0 <= crosstalk <= 1.0:
            raise ValueError(f"crosstalk is {crosstalk}, but is a share of the features: give one in 0..1")
        if blocks < 1 or inputs % blocks or outputs % blocks:
            raise ValueError(
                f"{inputs} inputs and {outputs} outputs cannot be cut into {blocks} equal blocks; use a number of "
                f"blocks that divides {gcd(inputs, outputs)}"
            )
        self.inputs, self.outputs, self.blocks = inputs, outputs, blocks
        self.block_inputs = inputs // blocks
        self.cross_inputs = ceil(round(crosstalk * self.block_inputs, 6))  # 0.07 * 100 is a little more than 7
        self.weight = Parameter((outputs, self.block_inputs + (blocks - 1) * self.cross_inputs), weight_init)
        self.bias = Parameter((outputs,), bias_init, is_bias=True)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        cross = block_columns(x, self.block_inputs, self.cross_inputs)
        return block_linear(x, cross, self.weight, self.bias, self.blocks)


class ReLU(Module):
    """max(x, 0)."""

    is_relu = True

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return relu(x)

    def forward_with(self, following: Sequence[Module], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        if type(self) is not ReLU:
            return super().forward_with(following, x, ctx)
        tail = tail_of((self, *following), prod(x.shape[1:]), ctx)
        return relu(x, tail.drop), tail.length - 1


class MaxPool2d(Module):
    """Maxima of sliding windows."""

    def __init__(self, kernel: int | Pair, stride: int | Pair, pad: int | Pair = 0) -> None:
        self.kernel, self.stride, self.pad = pair(kernel), pair(stride), pair(pad)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return max_pool2d(x, self.kernel, self.stride, self.pad)


class AvgPool2d(Module):
    """Means of sliding windows, padding not counted."""

    def __init__(self, kernel: int | Pair, stride: int | Pair, pad: int | Pair = 0) -> None:
        self.kernel, self.stride, self.pad = pair(kernel), pair(stride), pair(pad)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return avg_pool2d(x, self.kernel, self.stride, self.pad)


class LRN(Module):
    """Local response normalisation across channels, y = x / (k + alpha * sum x**2)**beta.

    The defaults are the paper's network: cuda-convnet's scale of 1e-4 is divided by the size, 5.
    """

    def __init__(self, size: int = 5, alpha: float = 2e-5, beta: float = 0.75, k: float = 2.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return lrn(x, self.size, self.alpha, self.beta, self.k)


class Dropout(Module):
    """Sets a `rate` of the elements to 0 in training and multiplies the others by `scale`, 1 / (1 - rate) by default.

    Where a rank holds some columns of the features only, `first_column` and `num_columns` say which.
    """

    def __init__(
        self,
        rate: float = 0.5,
        first_column: int = 0,
        num_columns: int | None = None,
        scale: float | None = None,
    ) -> None:
        self.rate, self.first_column, self.num_columns, self.scale = rate, first_column, num_columns, scale

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        mask = self.mask(prod(x.shape[1:]), ctx)
        return x if mask is None else DropoutOp(mask)(x)

    def mask(self, columns: int, ctx: Context) -> DropoutMask | None:
        """Return what is dropped of the rows of (n, columns) numbers; None: nothing."""
        if not ctx.training or self.rate == 0.0:
            return None
        key = rng.stream_key(ctx.seed, "dropout", self.name, ctx.step)
        return dropout_mask(self.rate, key, ctx.rows, self.first_column, self.num_columns or columns, self.scale)


def tail_of(following: Sequence[Module], columns: int, ctx: Context) -> Tail:
    """Return the tail that layers `following` one with results (n, columns) are, as far as they are ReLU and Dropout.

    A mask that makes numbers smaller stays a step of its own: what it kept could become 0, and look dropped.
    """
    if not following or not following[0].is_relu:
        return NO_TAIL
    dropout = following[1] if len(following) > 1 else None
    if type(dropout) is not Dropout:
        return Tail(True, None, 1)
    drop = dropout.mask(columns, ctx)
    return Tail(True, drop, 2) if drop is None or drop.scale >= 1.0 else Tail(True, None, 1)


class Flatten(Module):
    """(n, ...) -> (n, features)."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return flatten(x)
