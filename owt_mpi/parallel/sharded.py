"""The head split over the ranks of a group: each holds a block of every layer's units, and of the classes."""

from collections.abc import Sequence

import numpy as np

from owt_mpi.autograd import Parameter, Shard, Tensor
from owt_mpi.backends.base import Array
from owt_mpi.comm.base import Communicator
from owt_mpi.nn.layers import NO_TAIL, BlockLinear, Dropout, Linear, Tail, tail_of
from owt_mpi.nn.model import Loss
from owt_mpi.nn.module import Context, Module, Sequential
from owt_mpi.ops.block_columns import block_columns
from owt_mpi.ops.block_linear import block_linear
from owt_mpi.ops.logistic_loss import logistic_loss
from owt_mpi.ops.softmax_loss import softmax_loss
from owt_mpi.parallel.collective_ops import all_gather, reduce_scatter
from owt_mpi.spans import about


class ColumnLinear(Module):
    """A Linear layer of which this rank computes block `comm.rank` of the outputs.

    Takes all features of its input; where the layer before left this rank with a block of them, `gather_input`, the
    blocks are gathered first.
    """

    def __init__(self, layer: Linear, comm: Communicator, gather_input: bool) -> None:
        self.name = layer.name
        shard = Shard(axis=0, index=comm.rank, count=comm.size)
        self.weight = _shard_of(layer.weight, shard)
        self.bias = _shard_of(layer.bias, shard)
        self.arithmetic, self.comm, self.gather_input = layer.arithmetic, comm, gather_input

    def forward(self, x: Tensor, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        if self.gather_input:
            x = all_gather(x, self.comm, axis=1, layer=self.name)
        return self.arithmetic.linear(x, self.weight, self.bias, ctx, tail)

    def forward_with(self, following: Sequence[Module], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        tail = tail_of(following, self.bias.shape[0], ctx)
        return self.forward(x, ctx, tail), tail.length


class InputLinear(Module):
    """A Linear layer of which this rank holds the weights of block `comm.rank` of the inputs (scheme d).

    Takes this rank's block of the input's features. The ranks' partial sums of all outputs are reduce-scattered, so
    that each rank owns a block of them and adds its block of the bias: the input block of the layer after.
    """

    def __init__(self, layer: Linear, comm: Communicator) -> None:
        self.name = layer.name
        self.weight = _shard_of(layer.weight, Shard(axis=1, index=comm.rank, count=comm.size))
        self.bias = _shard_of(layer.bias, Shard(axis=0, index=comm.rank, count=comm.size))
        self.arithmetic, self.comm = layer.arithmetic, comm

    def forward(self, x: Tensor, ctx: Context, tail: Tail = NO_TAIL) -> Tensor:
        partial = self.arithmetic.linear(x, self.weight, None, ctx)
        y = reduce_scatter(partial, self.comm, axis=1, layer=self.name)
        return self.arithmetic.add_bias(y, self.bias, ctx, tail)

    def forward_with(self, following: Sequence[Module], x: Tensor, ctx: Context) -> tuple[Tensor, int]:
        tail = tail_of(following, self.bias.shape[0], ctx)
        return self.forward(x, ctx, tail), tail.length


class BlocksOfLinear(Module):
    """A BlockLinear layer of which this rank computes `blocks / comm.size` blocks, the `comm.rank`-th such share.

    Takes the inputs of its own blocks, of which the ranks gather the cross-talk features only; with `whole_input` it
    takes all features, and nothing crosses.
    """

    def __init__(self, layer: BlockLinear, comm: Communicator, whole_input: bool) -> None:
        self.name = layer.name
        shard = Shard(axis=0, index=comm.rank, count=comm.size)
        self.weight = _shard_of(layer.weight, shard)
        self.bias = _shard_of(layer.bias, shard)
        self.blocks, self.block_inputs, self.cross_inputs = layer.blocks, layer.block_inputs, layer.cross_inputs
        self.count = layer.blocks // comm.size
        self.first = comm.rank * self.count
        self.comm, self.whole_input = comm, whole_input

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        cross = block_columns(x, self.block_inputs, self.cross_inputs)
        if self.whole_input:
            x = block_columns(x, self.block_inputs, self.block_inputs, self.first, self.count)
        elif self.cross_inputs:
            cross = all_gather(cross, self.comm, axis=1, layer=self.name)
        return block_linear(x, cross, self.weight, self.bias, self.blocks, self.first, self.count)


def shard_head(head: Sequential, comm: Communicator, num_features: int, splits_inputs: bool = False) -> Sequential:
    """Return the head as this rank runs it, down to its block of the logits.

    The input is (n, num_features), or with `splits_inputs` this rank's block of the features, and Linear layers are
    split by their inputs; BlockLinear layers are split by their blocks in either case. Names, and with them initial
    weights and dropout masks, are those of the whole head.
    """
    if comm.size == 1:
        return head
    layers: dict[str, Module] = {}
    features, is_block = num_features, splits_inputs  # of the whole layer; whether this rank has a block of them
    for name, layer in head.layers.items():
        if isinstance(layer, Linear):
            layers[name] = InputLinear(layer, comm) if splits_inputs else ColumnLinear(layer, comm, is_block)
            features, is_block = layer.outputs, True
        elif isinstance(layer, BlockLinear):
            layers[name] = BlocksOfLinear(layer, comm, whole_input=not is_block)
            features, is_block = layer.outputs, True
        elif isinstance(layer, Dropout) and is_block:
            layers[name] = _dropout_block(layer, comm, features)
        else:
            layers[name] = layer
    sharded = Sequential(layers)
    sharded.name = head.name
    return sharded


def sharded_loss(kind: Loss, logits: Tensor, labels: np.ndarray, comm: Communicator) -> Tensor:
    """Return this rank's part of the loss summed over rows and classes, from its block of the logits.

    Nothing is counted twice: the sum over ranks is the loss of the whole rows.
    """
    first_class = comm.rank * logits.shape[1]
    if kind == "logistic":
        return logistic_loss(logits, labels, first_class)

    def combine_max(row_max: Array) -> Array:
        return comm.start_all_gather(row_max, axis=1).wait().max(axis=1, keepdims=True)

    def combine_sum(row_sum: Array) -> Array:
        return comm.start_all_reduce(row_sum).wait()

    with about("softmax"):
        return softmax_loss(logits, labels, first_class, combine_max, combine_sum)


def classes_above_label(logits: Array, labels: np.ndarray, comm: Communicator) -> np.ndarray:
    """Return, for each row, how many classes score above its label: 0 is a top-1 hit, below 5 a top-5 hit, int64 (n,).

    `logits` is this rank's block of the classes. Of equal scores the lower class is above; a score that is not a
    number counts as above, so a broken network hits nothing. Rows with a negative label give numbers of no meaning.
    """
    num_classes = logits.shape[1]
    first_class = comm.rank * num_classes
    column = labels - first_class
    here = (column >= 0) & (column < num_classes)
    rows = np.arange(len(labels))
    label_score = np.where(here, logits[rows, np.where(here, column, 0)], 0).astype(logits.dtype)[:, None]
    with about("hits"):
        label_score = comm.start_all_reduce(label_score).wait()
    lower_class = np.arange(num_classes) < column[:, None]
    other = np.arange(num_classes) != column[:, None]
    above = (~(logits <= label_score) & other) | ((logits == label_score) & lower_class)
    with about("hits"):
        return np.asarray(comm.start_all_reduce(above.sum(axis=1)).wait())


def class_scores(kind: Loss, logits: Array, comm: Communicator) -> np.ndarray:
    """Return what the network gives each class, between 0 and 1, float64: softmax or logistic outputs.

    `logits` on the host and the result are this rank's block of the classes. All ranks call.
    """
    wide = logits.astype(np.float64)
    if kind == "logistic":
        return np.asarray(np.exp(-np.logaddexp(0, -wide)))
    with about("softmax"):
        row_max = comm.start_all_gather(wide.max(axis=1, keepdims=True), axis=1).wait().max(axis=1, keepdims=True)
        powers = np.exp(wide - row_max)
        return np.asarray(powers / comm.start_all_reduce(powers.sum(axis=1, keepdims=True)).wait())


def _shard_of(parameter: Parameter, shard: Shard) -> Parameter:
    part = Parameter(parameter.global_shape, parameter.init, parameter.is_bias, shard)
    part.name = parameter.name
    return part


def _dropout_block(layer: Dropout, comm: Communicator, features: int) -> Dropout:
    width = features // comm.size
    block = Dropout(layer.rate, first_column=comm.rank * width, num_columns=features, scale=layer.scale)
    block.name = layer.name
    return block
