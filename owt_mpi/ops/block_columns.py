"""Columns of some blocks of the features: a rank's own blocks, or the first columns of each."""

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape
from owt_mpi.ops.shapes import check_rank


class BlockColumnsOp(Op):
    """x (n, blocks width) -> the first `length` columns of the blocks in [first, first + count), (n, count length)."""

    def __init__(self, width: int, length: int, first: int, count: int) -> None:
        self.width, self.length, self.first, self.count = width, length, first, count

    def out_shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        check_rank("block_columns", "x", x, "n features")
        if x[1] % self.width or (self.first + self.count) * self.width > x[1] or self.length > self.width:
            raise ValueError(
                f"block_columns: x of shape {x} has no {self.count} blocks of {self.width} columns from block "
                f"{self.first} on, of which {self.length} can be taken"
            )
        return (x[0], self.count * self.length)

    def forward(self, *xs: Array) -> Array:
        self.x = xs[0]
        y = self._taken(self.x).reshape(len(self.x), self.count * self.length)
        return self.backend.xp.ascontiguousarray(y)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        gx = self.backend.xp.zeros(self.x.shape, self.x.dtype)
        self._taken(gx)[...] = gy.reshape(len(gy), self.count, self.length)
        return (gx,)

    def _taken(self, x: Array) -> Array:
        blocks = x.reshape(len(x), x.shape[1] // self.width, self.width)
        return blocks[:, self.first : self.first + self.count, : self.length]


def block_columns(x: Tensor, width: int, length: int, first: int = 0, count: int | None = None) -> Tensor:
    """Return the first `length` columns of `count` blocks of `width` columns of x, from block `first` on (all)."""
    return BlockColumnsOp(width, length, first, x.shape[-1] // width if count is None else count)(x)
