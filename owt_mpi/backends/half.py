"""A backend that computes in float32 and rounds to 16 bits: what results are whose sums are made in float32."""

from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Backend, DropoutMask, Pair, Shape
from owt_mpi.backends.checks import check_dtypes
from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.backends.wrapper import BackendWrapper


class HalfBackend(BackendWrapper):
    """`inner`, on the host, for float16 and bfloat16: operands made float32, each result rounded to the nearest half.

    Workspaces are the inner backend's, in float32. Losses, which are computed from float32 logits, and the update of
    float32 master weights are the inner backend's own.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.dtypes = HALF_DTYPES

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        wide_x, wide_w, *bias = self._wide("conv2d", x=x, w=w, **({} if b is None else {"b": b}))
        return _rounded(self._inner.conv2d(wide_x, wide_w, bias[0] if bias else None, stride, pad, relu), x)

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        return _rounded(self._inner.conv2d_grad_x(*self._two("conv2d_grad_x", gy=gy, w=w), stride, pad, x_shape), gy)

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        wide = self._two("conv2d_grad_w", gy=gy, x=x)
        gw, gb = self._inner.conv2d_grad_w(*wide, stride, pad, w_shape, with_bias)
        return _rounded(gw, gy), None if gb is None else _rounded(gb, gy)

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Array]:
        y, workspace = self._inner.max_pool2d(self._one("max_pool2d", x=x), kernel, stride, pad)
        return _rounded(y, x), workspace

    def max_pool2d_grad(
        self, gy: Array, workspace: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        wide = self._one("max_pool2d_grad", gy=gy)
        return _rounded(self._inner.max_pool2d_grad(wide, workspace, kernel, stride, pad, x_shape), gy)

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        return _rounded(self._inner.avg_pool2d(self._one("avg_pool2d", x=x), kernel, stride, pad), x)

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        wide = self._one("avg_pool2d_grad", gy=gy)
        return _rounded(self._inner.avg_pool2d_grad(wide, kernel, stride, pad, x_shape), gy)

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
        y, workspace = self._inner.lrn(self._one("lrn", x=x), size, alpha, beta, k)
        return _rounded(y, x), workspace

    def lrn_grad(self, gy: Array, x: Array, workspace: Array, size: int, alpha: float, beta: float, k: float) -> Array:
        wide_gy, wide_x = self._two("lrn_grad", gy=gy, x=x)
        return _rounded(self._inner.lrn_grad(wide_gy, wide_x, workspace, size, alpha, beta, k), x)

    def linear(self, x: Array, w: Array, b: Array | None, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        wide_x, wide_w, *bias = self._wide("linear", x=x, w=w, **({} if b is None else {"b": b}))
        return _rounded(self._inner.linear(wide_x, wide_w, bias[0] if bias else None, relu, drop), x)

    def linear_grad_x(self, gy: Array, w: Array) -> Array:
        return _rounded(self._inner.linear_grad_x(*self._two("linear_grad_x", gy=gy, w=w)), gy)

    def linear_grad_w(self, gy: Array, x: Array) -> Array:
        return _rounded(self._inner.linear_grad_w(*self._two("linear_grad_w", gy=gy, x=x)), gy)

    def add_bias(self, x: Array, b: Array, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        return _rounded(self._inner.add_bias(*self._two("add_bias", x=x, b=b), relu, drop), x)

    def bias_grad(self, gy: Array) -> Array:
        return _rounded(self._inner.bias_grad(self._one("bias_grad", gy=gy)), gy)

    def relu(self, x: Array, drop: DropoutMask | None = None) -> Array:
        return _rounded(self._inner.relu(self._one("relu", x=x), drop), x)

    def relu_grad(self, gy: Array, y: Array, scale: float = 1.0) -> Array:
        return _rounded(self._inner.relu_grad(*self._two("relu_grad", gy=gy, y=y), scale), gy)

    def dropout(self, x: Array, mask: DropoutMask) -> tuple[Array, Any]:
        y, workspace = self._inner.dropout(self._one("dropout", x=x), mask)
        return _rounded(y, x), workspace

    def dropout_grad(self, gy: Array, mask: DropoutMask, workspace: Any) -> Array:
        return _rounded(self._inner.dropout_grad(self._one("dropout_grad", gy=gy), mask, workspace), gy)

    def _one(self, operation: str, **arrays: Array) -> Array:
        (wide,) = self._wide(operation, **arrays)
        return wide

    def _two(self, operation: str, **arrays: Array) -> tuple[Array, Array]:
        first, second = self._wide(operation, **arrays)
        return first, second

    def _wide(self, operation: str, **arrays: Array) -> list[Array]:
        """Return the arrays in float32. TypeError unless they have one half type."""
        check_dtypes(operation, self.dtypes, **arrays)
        return [array.astype(np.float32) for array in arrays.values()]


def _rounded(result: Array, like: Array) -> Array:
    return result.astype(like.dtype, order="C")
