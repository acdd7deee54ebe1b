"""The same numbers in another floating-point type."""

from typing import Any

import numpy as np

from owt_mpi.autograd import Op, Tensor
from owt_mpi.backends.base import Array, Shape


class AsDtypeOp(Op):
    """y = x in `dtype`; the gradient is rounded to the dtype of x."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, *xs: Array) -> Array:
        self.x_dtype = xs[0].dtype
        return xs[0].astype(self.dtype)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return (gy.astype(self.x_dtype),)


def as_dtype(x: Tensor, dtype: Any) -> Tensor:
    """Return x in `dtype`, x itself where that is its own."""
    return x if x.dtype == np.dtype(dtype) else AsDtypeOp(dtype)(x)
