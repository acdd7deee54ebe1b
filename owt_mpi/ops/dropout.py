"""Dropout whose mask does not depend on how rows and columns are spread over ranks."""

from math import prod

import numpy as np

from owt_mpi import rng
from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape


class DropoutOp(Op):
    """y = scale * x where kept, else 0. x is (n, ...); each row is one example."""

    def __init__(
        self, rate: float, key: int, rows: np.ndarray, first_column: int, num_columns: int, scale: float
    ) -> None:
        self.rate, self.key, self.rows, self.scale = rate, key, rows, scale
        self.first_column, self.num_columns = first_column, num_columns

    def out_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][0] != len(self.rows):
            raise ValueError(f"dropout: x of shape {shapes[0]} has {shapes[0][0]} rows, but {len(self.rows)} are named")
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        (x,) = xs
        xp = self.backend.xp
        columns = xp.arange(self.first_column, self.first_column + prod(x.shape[1:]), dtype=np.uint64)
        rows = xp.asarray(self.rows, dtype=np.uint64)
        indices = rows[:, None] * np.uint64(self.num_columns) + columns
        kept = rng.bernoulli(self.key, indices, 1.0 - self.rate).reshape(x.shape)
        self.factor = kept * x.dtype.type(self.scale)
        return x * self.factor

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (gy * self.factor,)


def dropout(
    x: Tensor,
    rate: float,
    key: int,
    rows: np.ndarray,
    first_column: int = 0,
    num_columns: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return x with a `rate` of its elements set to 0 and the others times `scale`; by default so that the mean stays.

    Element (i, j) is kept or not by element rows[i] * num_columns + first_column + j of the stream `key`: `rows` are
    the examples' places in the whole batch, and x holds the columns from `first_column` of `num_columns` (all).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout: rate is {rate}, but must lie in [0, 1)")
    columns = prod(x.shape[1:]) if num_columns is None else num_columns
    return DropoutOp(rate, key, rows, first_column, columns, 1.0 / (1.0 - rate) if scale is None else scale)(x)
