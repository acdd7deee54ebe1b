"""The oracle: every operation in NumPy, float32 or float64, written to be read.

Convolution and pooling loop over the offsets (a, e) inside the kernel. For one offset, the elements that all windows
see there form a strided view of the padded image with the shape of y, so that each line below is one term of the
formulas in base.py.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from owt_mpi.backends.base import Pair, Shape
from owt_mpi.backends.checks import (
    check_dtypes,
    check_lrn,
    check_momentum_sgd,
    check_shape,
    conv2d_y_shape,
    pool2d_y_shape,
)
from owt_mpi.backends.host import HostBackend


class ReferenceBackend(HostBackend):
    """Backend in plain NumPy. Workspaces: max pooling keeps the winner's index in its window, LRN its denominator."""

    name = "reference"
    dtypes: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.float64))

    def conv2d(
        self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, pad: Pair, relu: bool = False
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("conv2d", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        y = np.zeros(conv2d_y_shape("conv2d", x.shape, w.shape, stride, pad), x.dtype)
        if b is not None:
            check_shape("conv2d", "b", b, w.shape[:1])
            y += b
        padded = _padded(x, pad, 0)
        for a, e in _offsets(w.shape[1:3]):
            y += _seen(padded, (a, e), stride, y.shape) @ w[:, a, e].T
        return np.maximum(y, 0) if relu else y

    def conv2d_grad_x(self, gy: np.ndarray, w: np.ndarray, stride: Pair, pad: Pair, x_shape: Shape) -> np.ndarray:
        """See Backend."""
        check_dtypes("conv2d_grad_x", self.dtypes, gy=gy, w=w)
        check_shape("conv2d_grad_x", "gy", gy, conv2d_y_shape("conv2d_grad_x", x_shape, w.shape, stride, pad))
        padded = _padded(np.zeros(x_shape, gy.dtype), pad, 0)
        for a, e in _offsets(w.shape[1:3]):
            _seen(padded, (a, e), stride, gy.shape)[...] += gy @ w[:, a, e]
        return _unpadded(padded, pad)

    def conv2d_grad_w(
        self, gy: np.ndarray, x: np.ndarray, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See Backend."""
        check_dtypes("conv2d_grad_w", self.dtypes, gy=gy, x=x)
        check_shape("conv2d_grad_w", "gy", gy, conv2d_y_shape("conv2d_grad_w", x.shape, w_shape, stride, pad))
        gw = np.empty(w_shape, gy.dtype)
        padded = _padded(x, pad, 0)
        for a, e in _offsets((w_shape[1], w_shape[2])):
            gw[:, a, e] = np.tensordot(gy, _seen(padded, (a, e), stride, gy.shape), axes=((0, 1, 2), (0, 1, 2)))
        return gw, gy.sum(axis=(0, 1, 2)) if with_bias else None

    def max_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> tuple[np.ndarray, np.ndarray]:
        """See Backend."""
        check_dtypes("max_pool2d", self.dtypes, x=x)
        y_shape = pool2d_y_shape("max_pool2d", x.shape, kernel, stride, pad)
        padded = _padded(x, pad, -np.inf)
        windows = np.stack([_seen(padded, offset, stride, y_shape) for offset in _offsets(kernel)])
        return windows.max(axis=0), windows.argmax(axis=0)  # argmax gives the first of equals

    def max_pool2d_grad(
        self, gy: np.ndarray, workspace: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("max_pool2d_grad", self.dtypes, gy=gy)
        check_shape("max_pool2d_grad", "gy", gy, pool2d_y_shape("max_pool2d_grad", x_shape, kernel, stride, pad))
        padded = _padded(np.zeros(x_shape, gy.dtype), pad, 0)
        for index, offset in enumerate(_offsets(kernel)):
            _seen(padded, offset, stride, gy.shape)[...] += gy * (workspace == index)
        return _unpadded(padded, pad)

    def avg_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d", self.dtypes, x=x)
        y = np.zeros(pool2d_y_shape("avg_pool2d", x.shape, kernel, stride, pad), x.dtype)
        padded = _padded(x, pad, 0)
        for offset in _offsets(kernel):
            y += _seen(padded, offset, stride, y.shape)
        y /= _window_counts(x.shape, kernel, stride, pad, y)
        return y

    def avg_pool2d_grad(self, gy: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d_grad", self.dtypes, gy=gy)
        check_shape("avg_pool2d_grad", "gy", gy, pool2d_y_shape("avg_pool2d_grad", x_shape, kernel, stride, pad))
        share = gy / _window_counts(x_shape, kernel, stride, pad, gy)
        padded = _padded(np.zeros(x_shape, gy.dtype), pad, 0)
        for offset in _offsets(kernel):
            _seen(padded, offset, stride, gy.shape)[...] += share
        return _unpadded(padded, pad)

    def lrn(self, x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> tuple[np.ndarray, np.ndarray]:
        """See Backend."""
        check_dtypes("lrn", self.dtypes, x=x)
        check_lrn("lrn", x.shape, size)
        denominator = k + alpha * _channel_window_sum(x * x, size)
        return x * denominator**-beta, denominator

    def lrn_grad(
        self, gy: np.ndarray, x: np.ndarray, workspace: np.ndarray, size: int, alpha: float, beta: float, k: float
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("lrn_grad", self.dtypes, gy=gy, x=x)
        check_lrn("lrn_grad", x.shape, size)
        check_shape("lrn_grad", "gy", gy, x.shape)
        through_denominator = _channel_window_sum(gy * x * workspace ** (-beta - 1), size)
        return np.asarray(gy * workspace**-beta - 2 * alpha * beta * x * through_denominator)

    def momentum_sgd(
        self,
        w: np.ndarray,
        v: np.ndarray,
        g: np.ndarray,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: np.ndarray | None = None,
        skip: np.ndarray | None = None,
    ) -> None:
        """See Backend."""
        check_dtypes("momentum_sgd", self.dtypes, w=w, v=v)
        check_momentum_sgd(w, v, g, copy)
        if skip is not None and skip[0]:
            return
        v[...] = momentum * v - lr * (scale * g.astype(w.dtype) + weight_decay * w)
        w += v
        if copy is not None:
            copy[...] = w


def _offsets(kernel: tuple[int, ...]) -> Iterator[Pair]:
    """Yield the positions inside the kernel in row-major order."""
    return ((a, e) for a in range(kernel[0]) for e in range(kernel[1]))


def _seen(padded: np.ndarray, offset: Pair, stride: Pair, y_shape: Shape) -> np.ndarray:
    """Return the view of what the windows see at `offset`: element (n, i, j) is padded[n, i * s + a, j * s + e]."""
    (a, e), (height, width) = offset, y_shape[1:3]
    return padded[:, a :: stride[0], e :: stride[1]][:, :height, :width]


def _padded(x: np.ndarray, pad: Pair, value: float) -> np.ndarray:
    return np.pad(x, ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)), constant_values=value)


def _unpadded(padded: np.ndarray, pad: Pair) -> np.ndarray:
    _, height, width, _ = padded.shape
    return np.ascontiguousarray(padded[:, pad[0] : height - pad[0], pad[1] : width - pad[1]])


def _window_counts(x_shape: Shape, kernel: Pair, stride: Pair, pad: Pair, y: np.ndarray) -> np.ndarray:
    """Return how many elements inside the image each window holds, shape (1, h_out, w_out, 1), of y's dtype."""
    inside = _padded(np.ones((1, *x_shape[1:3], 1), y.dtype), pad, 0)
    counts = np.zeros((1, *y.shape[1:3], 1), y.dtype)
    for offset in _offsets(kernel):
        counts += _seen(inside, offset, stride, y.shape)
    return counts


def _channel_window_sum(x: np.ndarray, size: int) -> np.ndarray:
    """Return the sums over the `size` channels around each channel, fewer at the ends."""
    half, num_channels = size // 2, x.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (half, half)))
    total = np.zeros_like(x)
    for first in range(size):
        total += padded[..., first : first + num_channels]
    return total
