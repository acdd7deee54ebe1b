"""Launchers of our CUDA kernels that work on rows of numbers: biases, ReLU and dropout, losses. See cuda_kernels.py."""

from math import prod
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, DropoutMask, Shape
from owt_mpi.backends.cuda_launch import BLOCK, KernelLauncher, ceil_div, check, grid_of_rows, lanes_of

MAX_PARTIAL_SUMS = 1024


def bias_grad_partial_shape(num_rows: int, channels: int) -> Shape:
    """Return the shape of the float32 array in which bias_grad keeps the sums of its blocks.

    Enough blocks to fill a device, each with at least 32 rows, so that the sums are few beside the rows.
    """
    wanted = min(num_rows * channels // 8192, num_rows // 32, MAX_PARTIAL_SUMS)
    rows_per_block = ceil_div(num_rows, max(1, wanted))
    return (ceil_div(num_rows, rows_per_block), channels)


class RowKernels(KernelLauncher):
    """The part of CudaKernels that works on rows."""

    def bias_grad(self, gy: Array, partial: Array, gb: Array) -> None:
        """Write to gb (c,) the sums over all axes of gy but the last, always in one order.

        `partial` is float32, of shape bias_grad_partial_shape(rows, c): memory to work in.
        """
        channels = gy.shape[-1]
        num_rows = gy.size // channels
        check(gy.dtype, gy.shape, gy)
        check(gy.dtype, (channels,), gb)
        check(np.float32, bias_grad_partial_shape(num_rows, channels), partial)
        lanes = lanes_of(16 // gy.dtype.itemsize, channels, gy, partial, gb)
        packs = channels // lanes
        width = ceil_div(packs, ceil_div(packs, 64))
        grid, block = ceil_div(packs, width), (width, BLOCK // width)
        rows_per_block = ceil_div(num_rows, partial.shape[0])
        sizes = (np.int64(num_rows), np.int32(channels), np.int64(rows_per_block))
        first = self._function("bias_grad", "bias_grad", gy, lanes)
        first((grid, partial.shape[0]), block, (gy, partial, *sizes))
        finish = self._function("bias_grad", "bias_grad_finish", gb, lanes)
        finish((grid,), block, (partial, gb, np.int32(partial.shape[0]), np.int32(channels)))

    def bias_relu(self, x: Array, b: Array, y: Array) -> None:
        """Write max(x + b, 0) to y, b (c,) along the last axis; y may be x."""
        check(x.dtype, x.shape, x, y)
        check(x.dtype, x.shape[-1:], b)
        lanes = lanes_of(16 // x.dtype.itemsize, b.size, x, b, y)
        self._flat("activation", "bias_relu", x, lanes, (x, b, y, np.int64(x.size), np.int32(b.size)))

    def relu_grad(self, gy: Array, y: Array, gx: Array, scale: float = 1.0) -> None:
        """Write `scale` * gy where y > 0, else 0, to gx, which may be gy.

        With the scale of a mask this is the gradient of relu_dropout too, whose y is 0 where it dropped.
        """
        check(gy.dtype, gy.shape, gy, y, gx)
        lanes = lanes_of(16 // gy.dtype.itemsize, 0, gy, y, gx)
        self._flat("activation", "relu_grad", gy, lanes, (gy, y, gx, np.int64(gy.size), np.float32(scale)))

    def dropout(self, x: Array, y: Array, rows: Array, mask: DropoutMask) -> None:
        """Write to y the rows of x (n, ...), with the elements dropped that `mask` drops; y may be x.

        `rows`, (n,) int64, are the mask's, on the device. The gradient is this function of gy.
        """
        self._drop("dropout", (x, y), rows, mask)

    def relu_dropout(self, x: Array, y: Array, rows: Array, mask: DropoutMask) -> None:
        """Write dropout of max(x, 0) to y; the gradient is relu_grad's with the mask's scale."""
        self._drop("relu_dropout", (x, y), rows, mask)

    def bias_relu_dropout(self, x: Array, b: Array, y: Array, rows: Array, mask: DropoutMask) -> None:
        """Write dropout of max(x + b, 0) to y, of x (n, c) and b (c,); y may be x. See relu_dropout."""
        check(x.dtype, x.shape[1:], b)
        self._drop("bias_relu_dropout", (x, b, y), rows, mask)

    def _drop(self, name: str, arrays: tuple[Array, ...], rows: Array, mask: DropoutMask) -> None:
        x, y = arrays[0], arrays[-1]
        columns = prod(x.shape[1:])
        check(x.dtype, x.shape, x, y)
        check(np.int64, x.shape[:1], rows)
        lanes = lanes_of(16 // x.dtype.itemsize, columns, *arrays)
        grid = grid_of_rows(columns // lanes, x.shape[0])
        sizes = (np.int32(x.shape[0]), np.int32(columns))
        drawn = (np.uint64(mask.key), np.uint64(round((1.0 - mask.rate) * 2.0**32)))
        place = (np.int64(mask.first_column), np.int64(mask.num_columns))
        function = self._function("activation", name, x, lanes)
        function(grid, (BLOCK,), (*arrays, rows, *sizes, *drawn, *place, np.float32(mask.scale)))

    def logistic_loss(
        self, z: Array, labels: Array, gz: Array, row_losses: Array, first_class: int, scale: float
    ) -> None:
        """Write each row's loss to row_losses (n,), and `scale` * the gradient to gz, which may be z.

        z (n, classes), labels (n,) on the device; see ops.logistic_loss.
        """
        arguments = (np.int64(first_class), np.float32(scale))
        self._loss("logistic_loss", (z, labels, gz, row_losses), (z, gz), (row_losses,), labels, arguments)

    def softmax_max(self, z: Array, row_max: Array) -> None:
        """Write the maximum of each row of z (n, classes) to row_max (n,)."""
        self._loss("softmax_max", (z, row_max), (z,), (row_max,))

    def softmax_sum(self, z: Array, row_max: Array, row_sum: Array) -> None:
        """Write each row's sum of exp(z - row_max) to row_sum (n,); row_max is over all classes, z may hold a block."""
        self._loss("softmax_sum", (z, row_max, row_sum), (z,), (row_max, row_sum))

    def softmax_loss(
        self,
        z: Array,
        row_max: Array,
        row_sum: Array,
        labels: Array,
        gz: Array,
        row_losses: Array,
        first_class: int,
        scale: float,
    ) -> None:
        """Write each row's loss to row_losses (n,), and `scale` * the gradient to gz, which may be z.

        row_max and row_sum are over all classes. A row's loss is 0 where its label is not among z's classes; see
        ops.softmax_loss.
        """
        arrays = (z, row_max, row_sum, labels, gz, row_losses)
        arguments = (np.int64(first_class), np.float32(scale))
        self._loss("softmax_loss", arrays, (z, gz), (row_max, row_sum, row_losses), labels, arguments)

    def _loss(
        self,
        name: str,
        arrays: tuple[Array, ...],
        logits: tuple[Array, ...],
        rows: tuple[Array, ...],
        labels: Array | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        z = logits[0]
        check(z.dtype, z.shape, *logits)
        check(np.float32, z.shape[:1], *rows)
        check(np.int64, z.shape[:1], *(() if labels is None else (labels,)))
        lanes = lanes_of(16 // z.dtype.itemsize, z.shape[1], *logits)
        function = self._function("losses", name, z, lanes)
        function((z.shape[0],), (BLOCK,), (*arrays, np.int32(z.shape[1]), *arguments))

    def sum_losses(self, row_losses: Array, loss: Array) -> None:
        """Write the sum of row_losses (n,), in one order, to loss (1,)."""
        check(np.float32, (row_losses.size,), row_losses)
        check(np.float32, (1,), loss)
        function = self._function("losses", "sum_losses", row_losses, 1)
        function((1,), (BLOCK,), (row_losses, loss, np.int32(row_losses.size)))
