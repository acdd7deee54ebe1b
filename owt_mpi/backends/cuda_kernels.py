"""Launchers of our CUDA kernels (kernels/*.cu), one method each, on arrays that the caller has allocated.

Arrays are CuPy's, C-contiguous, on the current device; a launch goes to the current stream and nothing waits. Numbers
are float32, float16 or bfloat16, the last as uint16, since NumPy lacks it. Arithmetic is float32 whatever the arrays
hold. All arrays `x y z gx gy gz b gb` of one call have one dtype; row sums and losses are float32, labels int64.
Letters and shapes are those of base.py. Wrong shapes and dtypes are bugs of the caller: assertions.

Bytes moved and registers taken by each kernel are listed in docs/gpu.md.
"""

from math import prod
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Pair, Shape
from owt_mpi.backends.cuda_launch import (
    check,
    lanes_of,
    stored_type,
    window_sizes,
)
from owt_mpi.backends.cuda_row_kernels import RowKernels


def winner_dtype(kernel: Pair) -> np.dtype[Any]:
    """Return the dtype of max_pool2d's `winners`: the least that can number the places inside a window."""
    return np.dtype(np.uint8 if prod(kernel) <= 256 else np.uint16)


class CudaKernels(RowKernels):
    """The kernels. An instance belongs to one device; several threads may use it."""

    def max_pool2d(self, x: Array, y: Array, winners: Array, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write the windows' maxima to y and their places to `winners`, of y's shape and winner_dtype(kernel)."""
        check(winner_dtype(kernel), y.shape, winners)
        self._pool("max_pool2d", y.shape, (x, y, winners), x, y, kernel, stride, pad)

    def max_pool2d_grad(self, gy: Array, winners: Array, gx: Array, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write to gx the gradient of max_pool2d, which wrote `winners`."""
        check(winner_dtype(kernel), gy.shape, winners)
        self._pool("max_pool2d_grad", gx.shape, (gy, winners, gx), gx, gy, kernel, stride, pad)

    def avg_pool2d(self, x: Array, y: Array, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write the windows' means to y; padding is not counted."""
        self._pool("avg_pool2d", y.shape, (x, y), x, y, kernel, stride, pad)

    def avg_pool2d_grad(self, gy: Array, gx: Array, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write to gx the gradient of avg_pool2d."""
        self._pool("avg_pool2d_grad", gx.shape, (gy, gx), gx, gy, kernel, stride, pad)

    def _pool(
        self,
        name: str,
        over: Shape,
        arrays: tuple[Array, ...],
        x: Array,
        y: Array,
        kernel: Pair,
        stride: Pair,
        pad: Pair,
    ) -> None:
        assert max(prod(x.shape[1:]), prod(y.shape[1:])) < 2**31, (x.shape, y.shape)
        check(x.dtype, (x.shape[0], *x.shape[1:3], y.shape[3]), x)
        check(x.dtype, (x.shape[0], *y.shape[1:3], x.shape[3]), y)
        winner = "unsigned char" if winner_dtype(kernel).itemsize == 1 else "unsigned short"
        sizes = window_sizes(x.shape, y.shape[1:3], kernel, stride, pad)
        self._over_images("pool", name, over, arrays, sizes, WINNER=winner)

    def im2col(self, x: Array, columns: Array, y_size: Pair, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write to `columns` (n * y_h * y_w, kernel_h * kernel_w * c) what each window sees, 0 where that is padding.

        x may be some images of a batch, so that `columns` need not hold those of all.
        """
        n, channels = x.shape[0], x.shape[3]
        assert prod(y_size) * prod(kernel) * channels < 2**31, (y_size, kernel, channels)
        check(x.dtype, x.shape, x)
        check(x.dtype, (n * prod(y_size), prod(kernel) * channels), columns)
        over = (n, prod(y_size), prod(kernel), channels)
        self._over_images("im2col", "im2col", over, (x, columns), window_sizes(x.shape, y_size, kernel, stride, pad))

    def col2im(self, columns: Array, gx: Array, y_size: Pair, kernel: Pair, stride: Pair, pad: Pair) -> None:
        """Write to gx the adjoint of im2col: for each element the sum over the windows that see it."""
        assert prod(y_size) * prod(kernel) * gx.shape[3] < 2**31, (y_size, kernel, gx.shape)
        check(gx.dtype, gx.shape, gx)
        check(gx.dtype, (gx.shape[0] * prod(y_size), prod(kernel) * gx.shape[3]), columns)
        sizes = window_sizes(gx.shape, y_size, kernel, stride, pad)
        self._over_images("im2col", "col2im", gx.shape, (columns, gx), sizes)

    def lrn(self, x: Array, y: Array, size: int, alpha: float, beta: float, k: float) -> None:
        """Write x / (k + alpha * S)**beta to y, S the sum of x**2 over `size` channels around; see Backend.lrn."""
        self._lrn("lrn", (x, y), size, alpha, beta, k)

    def lrn_grad(self, gy: Array, x: Array, gx: Array, size: int, alpha: float, beta: float, k: float) -> None:
        """Write to gx the gradient of lrn. Nothing of the forward pass is needed but x."""
        self._lrn("lrn_grad", (gy, x, gx), size, alpha, beta, k)

    def _lrn(self, name: str, arrays: tuple[Array, ...], size: int, *numbers: float) -> None:
        x = arrays[0]
        check(x.dtype, x.shape, *arrays)
        assert size % 2 == 1, size
        lanes = lanes_of(16 // x.dtype.itemsize, x.shape[-1], *arrays)
        arguments = (*arrays, np.int64(x.size), np.int32(x.shape[-1]), *(np.float32(value) for value in numbers))
        self._flat("lrn", name, x, lanes, arguments, WINDOW=str(size))

    def momentum_sgd(
        self,
        w: Array,
        v: Array,
        g: Array,
        skip: Array,
        lr: float,
        momentum: float,
        weight_decay: float,
        scale: float = 1.0,
        copy: Array | None = None,
    ) -> None:
        """Update v := momentum * v - lr * (scale * g + weight_decay * w);  w := w + v;  copy := w.

        w and v are float32, g and `copy` float32, float16 or bfloat16, all of one shape. `skip` is int32 (1,): if it
        is not 0 nothing changes (see find_overflow); without loss scaling it holds a 0.
        """
        copies = () if copy is None else (copy,)
        check(np.float32, w.shape, w, v)
        check(np.int32, (1,), skip)
        for array in (g, *copies):
            check(array.dtype, w.shape, array)
        name = "momentum_sgd_copy" if copies else "momentum_sgd"
        numbers = (np.int64(w.size), *(np.float32(value) for value in (scale, lr, momentum, weight_decay)))
        lanes = lanes_of(4, 0, w, v, g, *copies)
        copied = stored_type(*copies or (w,))
        self._flat("sgd", name, g, lanes, (w, v, g, *copies, skip, *numbers), COPIED=copied)

    def find_overflow(self, g: Array, flag: Array) -> None:
        """Write 1 to `flag` (1,), int32, if a number of g is infinite or NaN; else leave it as it is."""
        check(g.dtype, g.shape, g)
        check(np.int32, (1,), flag)
        lanes = lanes_of(16 // g.dtype.itemsize, 0, g)
        self._flat("sgd", "find_overflow", g, lanes, (g, flag, np.int64(g.size)), COPIED="float")

    def crop_normalise(
        self,
        images: Array,
        tops: Array,
        lefts: Array,
        flips: Array,
        mean: Array,
        scale: Array,
        out: Array,
        offsets: Array | None = None,
    ) -> None:
        """Write ((crop of images - mean) + offsets) * scale to out (n, out_h, out_w, c); see Backend.start_normalise.

        images (n, h, w, c) uint8; tops and lefts int64, flips bool, all (n,); mean and scale (c,), offsets (n, c) or
        None, float32.
        """
        n, channels = out.shape[0], out.shape[3]
        check(np.uint8, (n, *images.shape[1:3], channels), images)
        check(np.int64, (n,), tops, lefts)
        check(np.bool_, (n,), flips)
        check(np.float32, (channels,), mean, scale)
        check(out.dtype, out.shape, out)
        colours = () if offsets is None else (offsets,)
        check(np.float32, (n, channels), *colours)
        name = "crop_normalise_offset" if colours else "crop_normalise"
        arrays = (images, tops, lefts, flips, mean, scale, *colours, out)
        sizes = (np.int64(out.size), *(np.int32(size) for size in (*images.shape[1:], *out.shape[1:3])))
        self._flat("augment", name, out, lanes_of(16 // out.dtype.itemsize, 0, out), (*arrays, *sizes))
