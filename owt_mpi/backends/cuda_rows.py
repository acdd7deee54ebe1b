"""The GPU backend's first half: arrays, copies, and what works on rows of numbers - layers, masks, losses, updates."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi.backends import threads
from owt_mpi.backends.base import Array, DropoutMask, Memory, Shape, T
from owt_mpi.backends.checks import check_dtypes, check_momentum_sgd
from owt_mpi.backends.cuda_finding import load_cupy, open_device
from owt_mpi.backends.cuda_kernels import CudaKernels
from owt_mpi.backends.cuda_pixels import PixelUploads
from owt_mpi.backends.cuda_replay import CudaReplay
from owt_mpi.backends.cuda_row_kernels import bias_grad_partial_shape
from owt_mpi.backends.precision import HALF_DTYPES


class CudaRows:
    """Arrays on one GPU, shared by all threads of the process, and the head's operations on them.

    A thread that computes on the arrays by `xp` first calls any method of the backend: CuPy's current device and
    stream belong to a thread.
    """

    dtypes: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), *HALF_DTYPES)

    def __init__(self, local_rank: int) -> None:
        """Take the GPU for the rank numbered `local_rank` on its node. NoGpuError if there is none."""
        self.xp: ModuleType = load_cupy()
        self._device = open_device(self.xp, local_rank)
        self.device: str | None = self._device.facts().identity
        self._kernels, self._replay = CudaKernels(), CudaReplay(self.xp, self._device)
        self._uploads = PixelUploads(self.xp, self._device, self._kernels)
        self._no_skip = self.xp.zeros(1, np.int32)

    def from_host(self, array: np.ndarray) -> Array:
        """Return a copy on the device. The host may change `array` at once; the compute stream waits for the copy."""
        return self._device.upload(array)

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        """See Backend. Pinned memory."""
        return self._uploads.host_empty(shape, dtype)

    def start_normalise(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], Array]:
        """See Backend. Bytes cross on a stream of their own, under what is computed."""
        return self._uploads.start(pixels, flips, mean, scale, colours, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        """Return a copy on the host, when the work that makes `array` is done."""
        return self._device.download(array)

    def start_to_host(self, array: Array) -> Callable[[], np.ndarray]:
        """See Backend. The copy goes on a stream of its own, under what is computed."""
        return self._device.start_download(array)

    def synchronize(self) -> None:
        """Return when the device is idle."""
        self._uploads.synchronize()
        self._device.synchronize()

    def memory(self) -> list[Memory]:
        """See Backend."""
        return [self._device.memory()]

    def set_num_threads(self, num_threads: int) -> None:
        """Use `num_threads` threads in what the host still computes."""
        threads.set_num_threads(num_threads)

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        """See Backend. The second call is recorded in CUDA graphs, which the later ones launch."""
        return self._replay.replayable(function)

    def each_time(self, call: Callable[[], None]) -> None:
        """See Backend. A graph ends before it, and another one begins behind it."""
        self._replay.each_time(call)

    def linear(self, x: Array, w: Array, b: Array | None, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        """See Backend. cuBLAS; bias, ReLU and dropout in one more pass."""
        check_dtypes("linear", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        self._device.enter()
        y = self.xp.matmul(x, w.T)
        self._add_bias_and_relu(y, b, relu, drop)
        return y

    def linear_grad_x(self, gy: Array, w: Array) -> Array:
        """See Backend."""
        check_dtypes("linear_grad_x", self.dtypes, gy=gy, w=w)
        self._device.enter()
        return self.xp.matmul(gy, w)

    def linear_grad_w(self, gy: Array, x: Array) -> Array:
        """See Backend."""
        check_dtypes("linear_grad_w", self.dtypes, gy=gy, x=x)
        self._device.enter()
        return self.xp.matmul(gy.T, x)

    def add_bias(self, x: Array, b: Array, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        """See Backend. One pass."""
        check_dtypes("add_bias", self.dtypes, x=x, b=b)
        x, b = self._contiguous(x), self._contiguous(b)
        if not relu:
            return x + b
        y = self._empty(x.shape, x.dtype)
        self._write_bias_relu(x, b, y, drop)
        return y

    def bias_grad(self, gy: Array) -> Array:
        """See Backend. The sums are over all axes of gy but the last, always in one order."""
        check_dtypes("bias_grad", self.dtypes, gy=gy)
        gy = self._contiguous(gy)
        channels = gy.shape[-1]
        gb = self._empty((channels,), gy.dtype)
        partial = self._empty(bias_grad_partial_shape(gy.size // channels, channels), np.float32)
        self._kernels.bias_grad(gy, partial, gb)
        return gb

    def relu(self, x: Array, drop: DropoutMask | None = None) -> Array:
        """See Backend. One pass."""
        check_dtypes("relu", self.dtypes, x=x)
        x = self._contiguous(x)
        if drop is None:
            return self.xp.maximum(x, 0)
        y = self._empty(x.shape, x.dtype)
        self._kernels.relu_dropout(x, y, self._rows_of(drop), drop)
        return y

    def relu_grad(self, gy: Array, y: Array, scale: float = 1.0) -> Array:
        """See Backend. One pass, of dropout too."""
        check_dtypes("relu_grad", self.dtypes, gy=gy, y=y)
        gy, y = self._contiguous(gy), self._contiguous(y)
        gx = self._empty(gy.shape, gy.dtype)
        self._kernels.relu_grad(gy, y, gx, scale)
        return gx

    def dropout(self, x: Array, mask: DropoutMask) -> tuple[Array, Array]:
        """See Backend. The workspace holds `mask.rows` on the device; what is kept is worked out again."""
        check_dtypes("dropout", self.dtypes, x=x)
        rows = self._rows_of(mask)
        return self._dropped(x, mask, rows), rows

    def dropout_grad(self, gy: Array, mask: DropoutMask, workspace: Array) -> Array:
        """See Backend."""
        check_dtypes("dropout_grad", self.dtypes, gy=gy)
        return self._dropped(gy, mask, workspace)

    def logistic_loss(self, z: Array, labels: np.ndarray, first_class: int) -> tuple[Array, Array]:
        """See Backend. Loss and gradient in one pass."""
        check_dtypes("logistic_loss", self.dtypes, z=z)
        z, there = self._contiguous(z), self._labels(labels)
        gz, row_losses = self._empty(z.shape, z.dtype), self._empty((len(z),), np.float32)
        self._kernels.logistic_loss(z, there, gz, row_losses, first_class, 1.0)
        return self._summed(row_losses), gz

    def softmax_max(self, z: Array) -> Array:
        """See Backend."""
        check_dtypes("softmax_max", self.dtypes, z=z)
        z = self._contiguous(z)
        row_max = self._empty((len(z), 1), np.float32)
        self._kernels.softmax_max(z, row_max.reshape(-1))
        return row_max

    def softmax_sum(self, z: Array, row_max: Array) -> Array:
        """See Backend."""
        check_dtypes("softmax_sum", self.dtypes, z=z, row_max=row_max)
        z, row_max = self._contiguous(z), self._contiguous(row_max)
        row_sum = self._empty((len(z), 1), np.float32)
        self._kernels.softmax_sum(z, row_max.reshape(-1), row_sum.reshape(-1))
        return row_sum

    def softmax_loss(
        self, z: Array, row_max: Array, row_sum: Array, labels: np.ndarray, first_class: int
    ) -> tuple[Array, Array]:
        """See Backend. Loss and gradient in one pass."""
        check_dtypes("softmax_loss", self.dtypes, z=z, row_max=row_max, row_sum=row_sum)
        z, there = self._contiguous(z), self._labels(labels)
        rows = (self._contiguous(row_max).reshape(-1), self._contiguous(row_sum).reshape(-1))
        gz, row_losses = self._empty(z.shape, z.dtype), self._empty((len(z),), np.float32)
        self._kernels.softmax_loss(z, *rows, there, gz, row_losses, first_class, 1.0)
        return self._summed(row_losses), gz

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
        """See Backend. One pass over each array, by a kernel that reads `skip` itself."""
        check_dtypes("momentum_sgd", (np.dtype(np.float32),), w=w, v=v)
        check_momentum_sgd(w, v, g, copy)
        self._device.enter()
        skip = self._no_skip if skip is None else skip
        self._kernels.momentum_sgd(w, v, g, skip, lr, momentum, weight_decay, scale, copy)

    def find_overflow(self, arrays: Sequence[Array]) -> Array:
        """See Backend. One pass over each array."""
        self._device.enter()
        flag = self.xp.zeros(1, np.int32)
        for array in arrays:
            self._kernels.find_overflow(self._contiguous(array), flag)
        return flag

    def _dropped(self, x: Array, mask: DropoutMask, rows: Array) -> Array:
        x = self._contiguous(x)
        y = self._empty(x.shape, x.dtype)
        self._kernels.dropout(x, y, rows, mask)
        return y

    def _rows_of(self, mask: DropoutMask) -> Array:
        return self.from_host(np.asarray(mask.rows, np.int64))

    def _labels(self, labels: np.ndarray) -> Array:
        return self.from_host(np.asarray(labels, np.int64))

    def _summed(self, row_losses: Array) -> Array:
        loss = self._empty((1,), np.float32)
        self._kernels.sum_losses(row_losses, loss)
        return loss.reshape(())

    def _add_bias_and_relu(self, y: Array, b: Array | None, relu: bool, drop: DropoutMask | None = None) -> None:
        """Add b to the last axis of y, if there is one, then rectify y if `relu`, then `drop`, if any; in place."""
        if b is not None and relu:
            self._write_bias_relu(y, self._contiguous(b), y, drop)
        elif b is not None:
            y += b
        elif drop is not None:
            self._kernels.relu_dropout(y, y, self._rows_of(drop), drop)
        elif relu:
            self.xp.maximum(y, 0, out=y)

    def _write_bias_relu(self, x: Array, b: Array, y: Array, drop: DropoutMask | None) -> None:
        """Write max(x + b, 0), with `drop` dropout of that, to y, which may be x."""
        if drop is None:
            self._kernels.bias_relu(x, b, y)
        else:
            self._kernels.bias_relu_dropout(x, b, y, self._rows_of(drop), drop)

    def _contiguous(self, array: Array) -> Array:
        self._device.enter()
        return self.xp.ascontiguousarray(array)

    def _empty(self, shape: Shape, dtype: Any) -> Array:
        return self.xp.empty(shape, dtype)
