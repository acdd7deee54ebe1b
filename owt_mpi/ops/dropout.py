"""Dropout whose mask does not depend on how rows and columns are spread over ranks."""

from math import prod

import numpy as np

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, DropoutMask, Shape


class DropoutOp(Op):
    """y = scale * x where kept, else 0. x is (n, ...); each row is one example."""

    def __init__(self, mask: DropoutMask) -> None:
        self.mask = mask

    def out_shape(self, *shapes: Shape) -> Shape:
        num_rows = len(self.mask.rows)
        if shapes[0][0] != num_rows:
            raise ValueError(f"dropout: x of shape {shapes[0]} has {shapes[0][0]} rows, but {num_rows} are named")
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        y, self.workspace = self.backend.dropout(xs[0], self.mask)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (self.backend.dropout_grad(gy, self.mask, self.workspace),)


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

    See DropoutMask; x holds all columns by default.
    """
    columns = prod(x.shape[1:]) if num_columns is None else num_columns
    return DropoutOp(dropout_mask(rate, key, rows, first_column, columns, scale))(x)


def dropout_mask(
    rate: float, key: int, rows: np.ndarray, first_column: int, num_columns: int, scale: float | None = None
) -> DropoutMask:
    """Return the mask; by default its scale keeps the mean. ValueError for a rate that leaves nothing."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout: rate is {rate}, but must lie in [0, 1)")
    return DropoutMask(rate, key, rows, first_column, num_columns, 1.0 / (1.0 - rate) if scale is None else scale)
