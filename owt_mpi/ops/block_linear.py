"""A fully connected layer in blocks: a block of outputs reads its own block of the inputs, and a part of the others."""

from math import prod

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class BlockLinearOp(Op):
    """Outputs of `count` blocks from block `first` on, of the `blocks` of a layer.

    x (n, count i): the i inputs of each of these blocks. cross (n, blocks c): the cross-talk features, c of each block
    of the layer. w (count o, i + (blocks - 1) c), b (count o,) -> y (n, count o): block k of y is s_k w_k' + b_k, where
    s_k has the cross-talk features of the blocks before k, all inputs of k, and those of the blocks after k.
    """

    def __init__(self, first: int, count: int, blocks: int) -> None:
        self.first, self.count, self.blocks = first, count, blocks

    def out_shape(self, *shapes: Shape) -> Shape:
        x, cross, w, b = shapes
        for name, shape, axes in (("x", x, "n inputs"), ("cross", cross, "n features"), ("w", w, "outputs inputs")):
            check_rank("block_linear", name, shape, axes)
        if x[0] != cross[0]:
            raise ValueError(f"block_linear: x of shape {x} and cross of shape {cross} have different numbers of rows")
        for name, length, parts in (
            ("x", x[1], self.count),
            ("cross", cross[1], self.blocks),
            ("w", w[0], self.count),
        ):
            if length % parts:
                raise ValueError(f"block_linear: {length} of {name} cannot be shared equally by {parts} blocks")
        read = x[1] // self.count + (self.blocks - 1) * (cross[1] // self.blocks)
        if w[1] != read:
            raise ValueError(
                f"block_linear: a block of x {x} and cross {cross} reads {read} features, w {w} takes {w[1]}"
            )
        if b != (w[0],):
            raise ValueError(f"block_linear: b has shape {b}, but w of shape {w} needs ({w[0]},)")
        return (x[0], w[0])

    def forward(self, *xs: Array) -> Array:
        self.x, self.cross, self.w, b = xs
        y = self.backend.xp.empty((len(self.x), len(self.w)), self.x.dtype)
        for j in range(self.count):
            outputs = self._outputs(j)
            y[:, outputs] = self.backend.linear(self._seen(j), self.w[outputs], b[outputs])
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        xp = self.backend.xp
        gx, gcross = xp.empty(self.x.shape, self.x.dtype), xp.zeros(self.cross.shape, self.cross.dtype)
        gw = xp.empty(self.w.shape, self.w.dtype)
        for j in range(self.count):
            outputs, (inputs, before, after) = self._outputs(j), self._places(j)
            gw[outputs] = self.backend.linear_grad_w(gy[:, outputs], self._seen(j))
            gseen = self.backend.linear_grad_x(gy[:, outputs], self.w[outputs])
            own = slice(before.stop, before.stop + inputs.stop - inputs.start)
            gcross[:, before] += gseen[:, : own.start]
            gx[:, inputs] = gseen[:, own]
            gcross[:, after] += gseen[:, own.stop :]
        return gx, gcross, gw, self.backend.bias_grad(gy)

    def multiply_adds(self, *shapes: Shape) -> int:
        return shapes[0][0] * prod(shapes[2])

    def _outputs(self, j: int) -> slice:
        """Return the rows of w, and the columns of y, of block j of these."""
        width = len(self.w) // self.count
        return slice(j * width, (j + 1) * width)

    def _places(self, j: int) -> tuple[slice, slice, slice]:
        """Return which columns of x block j of these reads, and which of cross before and after them."""
        width, cross_width, k = self.x.shape[1] // self.count, self.cross.shape[1] // self.blocks, self.first + j
        inputs = slice(j * width, (j + 1) * width)
        return inputs, slice(0, k * cross_width), slice((k + 1) * cross_width, self.blocks * cross_width)

    def _seen(self, j: int) -> Array:
        """Return the features that block j of these reads, (n, w.shape[1])."""
        inputs, before, after = self._places(j)
        parts = (self.cross[:, before], self.x[:, inputs], self.cross[:, after])
        return self.backend.xp.concatenate(parts, axis=1)


def block_linear(
    x: Tensor, cross: Tensor, w: Tensor, b: Tensor, blocks: int, first: int = 0, count: int | None = None
) -> Tensor:
    """Return the outputs of `count` of a layer's `blocks`, from block `first` on (all); see BlockLinearOp."""
    return BlockLinearOp(first, blocks if count is None else count, blocks)(x, cross, w, b)
