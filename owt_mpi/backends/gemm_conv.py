"""Convolutions by im2col and matrix products, for a GPU without cuDNN: right, and a few times slower."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.backends.cuda_kernels import CudaKernels
from owt_mpi.backends.precision import is_half

COLUMN_BYTES = 256 << 20


class GemmConv:
    """Convolutions on a device: C-contiguous arrays in and out, results written where the caller says.

    All of one call are float32, or a half type: those are widened, so that sums are made in float32 and rounded once.
    What each window sees is written out as a row of a matrix, `columns`, for as many images at a time as fit into
    COLUMN_BYTES (at least one).
    """

    def __init__(
        self,
        cupy: ModuleType,
        kernels: CudaKernels,
        add_bias_and_relu: Callable[[Array, Array | None, bool], None],
        column_bytes: int = COLUMN_BYTES,
    ) -> None:
        """Use the module `cupy`. `add_bias_and_relu(y, b, relu)` adds b, if given, and then rectifies, in place."""
        self._cupy, self._kernels, self._add_bias_and_relu = cupy, kernels, add_bias_and_relu
        self._column_bytes = column_bytes

    def conv2d(
        self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, y: Array, relu: bool = False
    ) -> None:
        """Write the convolution of x with w, plus b, to y; with `relu`, max(., 0)."""
        if is_half(x.dtype):
            wide, wide_b = _wide(y), None if b is None else _wide(b)
            self.conv2d(_wide(x), _wide(w), wide_b, stride, pad, wide, relu)
            y[...] = wide
            return
        weights = w.reshape(len(w), -1)
        for images in self._parts(y.shape, w.shape):
            columns = self._columns(x[images], y.shape, w.shape, stride, pad)
            self._cupy.matmul(columns, weights.T, out=_rows(y[images]))
            del columns  # before the next are made
        self._add_bias_and_relu(y, b, relu)

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, gx: Array) -> None:
        """Write the gradient with respect to x to gx."""
        if is_half(gy.dtype):
            wide = _wide(gx)
            self.conv2d_grad_x(_wide(gy), _wide(w), stride, pad, wide)
            gx[...] = wide
            return
        weights = w.reshape(len(w), -1)
        for images in self._parts(gy.shape, w.shape):
            columns = _rows(gy[images]) @ weights
            self._kernels.col2im(columns, gx[images], gy.shape[1:3], w.shape[1:3], stride, pad)
            del columns

    def conv2d_grad_w(self, gy: Array, x: Array, stride: Pair, pad: Pair, gw: Array) -> None:
        """Write the gradient with respect to w to gw."""
        if is_half(gy.dtype):
            wide = _wide(gw)
            self.conv2d_grad_w(_wide(gy), _wide(x), stride, pad, wide)
            gw[...] = wide
            return
        result = gw.reshape(len(gw), -1)
        for index, images in enumerate(self._parts(gy.shape, gw.shape)):
            columns = self._columns(x[images], gy.shape, gw.shape, stride, pad)
            if index == 0:
                self._cupy.matmul(_rows(gy[images]).T, columns, out=result)
            else:
                result += _rows(gy[images]).T @ columns
            del columns

    def _columns(self, x: Array, y_shape: Shape, w_shape: Shape, stride: Pair, pad: Pair) -> Array:
        height, width = y_shape[1:3]
        columns = self._cupy.empty((len(x) * height * width, _row_length(w_shape)), x.dtype)
        self._kernels.im2col(x, columns, (height, width), (w_shape[1], w_shape[2]), stride, pad)
        return columns

    def _parts(self, y_shape: Shape, w_shape: Shape) -> list[slice]:
        """Return the images to work on at a time."""
        image_bytes = 4 * y_shape[1] * y_shape[2] * _row_length(w_shape)
        step = max(1, self._column_bytes // image_bytes)
        return [slice(first, min(first + step, y_shape[0])) for first in range(0, y_shape[0], step)]


def _row_length(w_shape: Shape) -> int:
    return w_shape[1] * w_shape[2] * w_shape[3]


def _wide(array: Array) -> Array:
    return array.astype(np.float32)


def _rows(images: Array) -> Array:
    """Return (n, h, w, c) as (n h w, c)."""
    return images.reshape(-1, images.shape[-1])
