"""The GPU backend: CuPy arrays, our own kernels, and convolutions by cuDNN or, where that is absent, im2col + cuBLAS.

Work is enqueued on one stream, and the host goes on at once; only `to_host`, what
`start_to_host` returns, and `synchronize` wait for it.
"""

from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Backend, Pair, Shape
from owt_mpi.backends.checks import (
    check_dtypes,
    check_lrn,
    check_shape,
    conv2d_y_shape,
    pool2d_y_shape,
)
from owt_mpi.backends.cuda_kernels import winner_dtype
from owt_mpi.backends.cuda_rows import CudaRows
from owt_mpi.backends.cudnn import Cudnn, CudnnOptions, find_cudnn
from owt_mpi.backends.cudnn_graphs import Precision, check_precision
from owt_mpi.backends.gemm_conv import COLUMN_BYTES, GemmConv

_CUDNN_DEFAULTS = CudnnOptions()


class CudaBackend(CudaRows):
    """Backend on one GPU. Workspaces: max pooling keeps the winners' places; LRN keeps nothing.

    `workspace_bytes` is the most that a convolution works in.
    """

    name = "cuda"

    def __init__(self, local_rank: int = 0, cudnn: CudnnOptions | None = _CUDNN_DEFAULTS, tf32: bool = False) -> None:
        """Take the GPU for the rank numbered `local_rank` on its node. NoGpuError if there is none.

        With `cudnn` None convolutions are im2col and cuBLAS even where cuDNN is installed. ValueError for options that
        exclude one another, and for a GPU that is too old. With `tf32`, products of float32 numbers are made in TF32,
        in cuDNN and in cuBLAS; cuBLAS is told for the whole process, by the backend that was made last.
        """
        super().__init__(local_rank)
        facts = self._device.facts()
        self.device_name = facts.name
        self._compute_capability = int(facts.compute_capability.replace(".", ""))
        check_precision("tf32" if tf32 else "fp32", self._compute_capability)
        self.tf32 = tf32
        self._device.set_tf32(tf32)
        without_cudnn = "asked" if cudnn is None else find_cudnn()
        self.has_cudnn = without_cudnn is None
        self._conv: Cudnn | GemmConv
        if cudnn is not None and without_cudnn is None:
            self._conv = Cudnn(
                self.xp,
                self.xp.cuda.alloc,
                self._add_bias_and_relu,
                tf32=tf32,
                autotune=cudnn.autotune,
                deterministic=cudnn.deterministic,
                workspace_bytes=cudnn.workspace_bytes,
            )
            self.workspace_bytes = self._conv.workspace_bytes
            convolutions = f"convolutions by {self._conv.description}"
        else:
            self._conv = GemmConv(self.xp, self._kernels, self._add_bias_and_relu)
            self.workspace_bytes = COLUMN_BYTES
            convolutions = f"convolutions by im2col and cuBLAS, as {without_cudnn}"
        self.description = (
            f"{facts.name}, device {self._device.number}, compute capability {facts.compute_capability}, "
            f"{facts.total_bytes / 2**30:.0f} GiB; CuPy {self.xp.__version__}; {convolutions}"
        )

    def check_computes(self, dtype: Any) -> None:
        """Raise ValueError if the GPU has no units for products of numbers of `dtype`."""
        halves: dict[str, Precision] = {"float16": "fp16", "bfloat16": "bf16"}
        check_precision(halves.get(np.dtype(dtype).name, "fp32"), self._compute_capability)

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        """See Backend."""
        check_dtypes("conv2d", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        y_shape = conv2d_y_shape("conv2d", x.shape, w.shape, stride, pad)
        if b is not None:
            check_shape("conv2d", "b", b, w.shape[:1])
        x, w = self._contiguous(x), self._contiguous(w)
        y = self._empty(y_shape, x.dtype)
        self._conv.conv2d(x, w, None if b is None else self._contiguous(b), stride, pad, y, relu)
        return y

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        """See Backend."""
        check_dtypes("conv2d_grad_x", self.dtypes, gy=gy, w=w)
        check_shape("conv2d_grad_x", "gy", gy, conv2d_y_shape("conv2d_grad_x", x_shape, w.shape, stride, pad))
        gy, w = self._contiguous(gy), self._contiguous(w)
        gx = self._empty(x_shape, gy.dtype)
        self._conv.conv2d_grad_x(gy, w, stride, pad, gx)
        return gx

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        """See Backend."""
        check_dtypes("conv2d_grad_w", self.dtypes, gy=gy, x=x)
        check_shape("conv2d_grad_w", "gy", gy, conv2d_y_shape("conv2d_grad_w", x.shape, w_shape, stride, pad))
        gy, x = self._contiguous(gy), self._contiguous(x)
        gw = self._empty(w_shape, gy.dtype)
        self._conv.conv2d_grad_w(gy, x, stride, pad, gw)
        return gw, self.bias_grad(gy) if with_bias else None

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Array]:
        """See Backend."""
        check_dtypes("max_pool2d", self.dtypes, x=x)
        y_shape = pool2d_y_shape("max_pool2d", x.shape, kernel, stride, pad)
        x = self._contiguous(x)
        y, winners = self._empty(y_shape, x.dtype), self._empty(y_shape, winner_dtype(kernel))
        self._kernels.max_pool2d(x, y, winners, kernel, stride, pad)
        return y, winners

    def max_pool2d_grad(
        self, gy: Array, workspace: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        """See Backend."""
        check_dtypes("max_pool2d_grad", self.dtypes, gy=gy)
        check_shape("max_pool2d_grad", "gy", gy, pool2d_y_shape("max_pool2d_grad", x_shape, kernel, stride, pad))
        gy = self._contiguous(gy)
        gx = self._empty(x_shape, gy.dtype)
        self._kernels.max_pool2d_grad(gy, workspace, gx, kernel, stride, pad)
        return gx

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        """See Backend."""
        check_dtypes("avg_pool2d", self.dtypes, x=x)
        y_shape = pool2d_y_shape("avg_pool2d", x.shape, kernel, stride, pad)
        x = self._contiguous(x)
        y = self._empty(y_shape, x.dtype)
        self._kernels.avg_pool2d(x, y, kernel, stride, pad)
        return y

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        """See Backend."""
        check_dtypes("avg_pool2d_grad", self.dtypes, gy=gy)
        check_shape("avg_pool2d_grad", "gy", gy, pool2d_y_shape("avg_pool2d_grad", x_shape, kernel, stride, pad))
        gy = self._contiguous(gy)
        gx = self._empty(x_shape, gy.dtype)
        self._kernels.avg_pool2d_grad(gy, gx, kernel, stride, pad)
        return gx

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, None]:
        """See Backend. The gradient works the denominator out again: reading it would cost more."""
        check_dtypes("lrn", self.dtypes, x=x)
        check_lrn("lrn", x.shape, size)
        x = self._contiguous(x)
        y = self._empty(x.shape, x.dtype)
        self._kernels.lrn(x, y, size, alpha, beta, k)
        return y, None

    def lrn_grad(self, gy: Array, x: Array, workspace: None, size: int, alpha: float, beta: float, k: float) -> Array:
        """See Backend."""
        check_dtypes("lrn_grad", self.dtypes, gy=gy, x=x)
        check_lrn("lrn_grad", x.shape, size)
        check_shape("lrn_grad", "gy", gy, x.shape)
        gy, x = self._contiguous(gy), self._contiguous(x)
        gx = self._empty(x.shape, x.dtype)
        self._kernels.lrn_grad(gy, x, gx, size, alpha, beta, k)
        return gx


def workspace_limit(backend: Backend) -> int | None:
    """Return the most that a convolution of `backend` works in, None where it is not a GPU's."""
    return backend.workspace_bytes if isinstance(backend, CudaBackend) else None


def widens_halves(backend: Backend) -> bool:
    """Return whether convolutions of `backend` compute in float32 on copies of halves: those of a GPU without cuDNN."""
    return isinstance(backend, CudaBackend) and not backend.has_cudnn
