"""A backend around another: what computes otherwise in some operations, or looks on, is made of it."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Backend, DropoutMask, Memory, Pair, Shape, T


class BackendWrapper:
    """`inner`: every operation is its own."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name: str = inner.name
        self.xp: ModuleType = inner.xp
        self.device: str | None = inner.device
        self.dtypes: tuple[np.dtype[Any], ...] = inner.dtypes

    def from_host(self, array: np.ndarray) -> Array:
        return self._inner.from_host(array)

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        return self._inner.host_empty(shape, dtype)

    def start_normalise(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], Array]:
        return self._inner.start_normalise(pixels, flips, mean, scale, colours, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return self._inner.to_host(array)

    def start_to_host(self, array: Array) -> Callable[[], np.ndarray]:
        return self._inner.start_to_host(array)

    def synchronize(self) -> None:
        self._inner.synchronize()

    def memory(self) -> list[Memory]:
        return self._inner.memory()

    def set_num_threads(self, num_threads: int) -> None:
        self._inner.set_num_threads(num_threads)

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        return self._inner.replayable(function)

    def each_time(self, call: Callable[[], None]) -> None:
        self._inner.each_time(call)

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        return self._inner.conv2d(x, w, b, stride, pad, relu)

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        return self._inner.conv2d_grad_x(gy, w, stride, pad, x_shape)

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        return self._inner.conv2d_grad_w(gy, x, stride, pad, w_shape, with_bias)

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Any]:
        return self._inner.max_pool2d(x, kernel, stride, pad)

    def max_pool2d_grad(
        self, gy: Array, workspace: Any, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        return self._inner.max_pool2d_grad(gy, workspace, kernel, stride, pad, x_shape)

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        return self._inner.avg_pool2d(x, kernel, stride, pad)

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        return self._inner.avg_pool2d_grad(gy, kernel, stride, pad, x_shape)

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Any]:
        return self._inner.lrn(x, size, alpha, beta, k)

    def lrn_grad(self, gy: Array, x: Array, workspace: Any, size: int, alpha: float, beta: float, k: float) -> Array:
        return self._inner.lrn_grad(gy, x, workspace, size, alpha, beta, k)

    def linear(self, x: Array, w: Array, b: Array | None, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        return self._inner.linear(x, w, b, relu, drop)

    def linear_grad_x(self, gy: Array, w: Array) -> Array:
        return self._inner.linear_grad_x(gy, w)

    def linear_grad_w(self, gy: Array, x: Array) -> Array:
        return self._inner.linear_grad_w(gy, x)

    def add_bias(self, x: Array, b: Array, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        return self._inner.add_bias(x, b, relu, drop)

    def bias_grad(self, gy: Array) -> Array:
        return self._inner.bias_grad(gy)

    def relu(self, x: Array, drop: DropoutMask | None = None) -> Array:
        return self._inner.relu(x, drop)

    def relu_grad(self, gy: Array, y: Array, scale: float = 1.0) -> Array:
        return self._inner.relu_grad(gy, y, scale)

    def dropout(self, x: Array, mask: DropoutMask) -> tuple[Array, Any]:
        return self._inner.dropout(x, mask)

    def dropout_grad(self, gy: Array, mask: DropoutMask, workspace: Any) -> Array:
        return self._inner.dropout_grad(gy, mask, workspace)

    def logistic_loss(self, z: Array, labels: np.ndarray, first_class: int) -> tuple[Array, Array]:
        return self._inner.logistic_loss(z, labels, first_class)

    def softmax_max(self, z: Array) -> Array:
        return self._inner.softmax_max(z)

    def softmax_sum(self, z: Array, row_max: Array) -> Array:
        return self._inner.softmax_sum(z, row_max)

    def softmax_loss(
        self, z: Array, row_max: Array, row_sum: Array, labels: np.ndarray, first_class: int
    ) -> tuple[Array, Array]:
        return self._inner.softmax_loss(z, row_max, row_sum, labels, first_class)

    def momentum_sgd(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        self._inner.momentum_sgd(w, v, g, lr, momentum, weight_decay, scale, copy, skip)

    def find_overflow(self, arrays: Sequence[Array]) -> Array:
        return self._inner.find_overflow(arrays)
