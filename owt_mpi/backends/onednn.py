"""The CPU backend on oneDNN: its convolutions, matrix products, pooling and LRN on plain NHWC float32 arrays.

Primitives are built once for a geometry and kept, in each Python thread its own: their memory objects and scratchpad
are in use while they run. So threads may share one backend, as ranks that live in one process do.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from owt_mpi.backends import onednn_builders as builders
from owt_mpi.backends import onednn_products as products
from owt_mpi.backends.base import DropoutMask, Pair, Shape
from owt_mpi.backends.blocked_sgd import blocked_momentum_sgd
from owt_mpi.backends.checks import (
    check_dtypes,
    check_lrn,
    check_momentum_sgd,
    check_shape,
    conv2d_y_shape,
    pool2d_y_shape,
)
from owt_mpi.backends.host import HostBackend, dropout_factor
from owt_mpi.backends.onednn_api import (
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    SRC,
    WEIGHTS,
    WORKSPACE,
    Library,
    OneDnnError,
    find_library,
)
from owt_mpi.backends.onednn_builders import Conv, Lrn, Pool
from owt_mpi.backends.onednn_primitive import Context, Primitive
from owt_mpi.backends.onednn_products import Linear
from owt_mpi.backends.reference import ReferenceBackend

_Geometry = Conv | Linear | Pool | Lrn | int


class OneDnnBackend(HostBackend):
    """Backend on oneDNN. Workspaces are bytes in the library's layout, but for an LRN that NumPy computes."""

    name = "onednn"
    dtypes: tuple[np.dtype[Any], ...] = (np.dtype(np.float32),)

    def __init__(self, path: Path | None = None) -> None:
        """Load the library at `path`, or where find_library finds it. OSError if that fails."""
        self.library = Library(path or find_library())
        self._thread = _ThreadState(self.library)
        self._numpy = ReferenceBackend()

    def conv2d(
        self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, pad: Pair, relu: bool = False
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("conv2d", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        y = _empty(conv2d_y_shape("conv2d", x.shape, w.shape, stride, pad))
        arrays = {SRC: x, WEIGHTS: w, DST: y}
        if b is not None:
            check_shape("conv2d", "b", b, w.shape[:1])
            arrays[BIAS] = b
        geometry = Conv(x.shape, w.shape, y.shape, stride, pad, b is not None, relu)
        self._run(builders.conv2d, geometry, arrays)
        return y

    def conv2d_grad_x(self, gy: np.ndarray, w: np.ndarray, stride: Pair, pad: Pair, x_shape: Shape) -> np.ndarray:
        """See Backend."""
        check_dtypes("conv2d_grad_x", self.dtypes, gy=gy, w=w)
        check_shape("conv2d_grad_x", "gy", gy, conv2d_y_shape("conv2d_grad_x", x_shape, w.shape, stride, pad))
        gx = _empty(x_shape)
        geometry = Conv(x_shape, w.shape, gy.shape, stride, pad, bias=False)
        self._run(builders.conv2d_grad_x, geometry, {DIFF_DST: gy, WEIGHTS: w, DIFF_SRC: gx})
        return gx

    def conv2d_grad_w(
        self, gy: np.ndarray, x: np.ndarray, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See Backend."""
        check_dtypes("conv2d_grad_w", self.dtypes, gy=gy, x=x)
        check_shape("conv2d_grad_w", "gy", gy, conv2d_y_shape("conv2d_grad_w", x.shape, w_shape, stride, pad))
        gw, gb = _empty(w_shape), _empty(w_shape[:1]) if with_bias else None
        arrays = {SRC: x, DIFF_DST: gy, DIFF_WEIGHTS: gw}
        if gb is not None:
            arrays[DIFF_BIAS] = gb
        self._run(builders.conv2d_grad_w, Conv(x.shape, w_shape, gy.shape, stride, pad, with_bias), arrays)
        return gw, gb

    def linear(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None,
        relu: bool = False,
        drop: DropoutMask | None = None,
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("linear", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        if 0 in (*x.shape, *w.shape):  # oneDNN leaves the result of a product over nothing as it was
            return super().linear(x, w, b, relu, drop)
        check_shape("linear", "x", x, (len(x), w.shape[1]))
        y = _empty((len(x), len(w)))
        arrays = {SRC: x, WEIGHTS: w, DST: y}
        if b is not None:
            check_shape("linear", "b", b, w.shape[:1])
            arrays[BIAS] = b
        self._run(products.linear, Linear(len(x), x.shape[1], len(w), b is not None, relu), arrays)
        if drop is not None:
            y *= dropout_factor(y, drop)
        return y

    def linear_grad_x(self, gy: np.ndarray, w: np.ndarray) -> np.ndarray:
        """See Backend."""
        check_dtypes("linear_grad_x", self.dtypes, gy=gy, w=w)
        if 0 in (*gy.shape, *w.shape):
            return super().linear_grad_x(gy, w)
        check_shape("linear_grad_x", "gy", gy, (len(gy), len(w)))
        gx = _empty((len(gy), w.shape[1]))
        geometry = Linear(len(gy), w.shape[1], len(w))
        self._run(products.linear_grad_x, geometry, {DIFF_DST: gy, WEIGHTS: w, DIFF_SRC: gx})
        return gx

    def linear_grad_w(self, gy: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See Backend."""
        check_dtypes("linear_grad_w", self.dtypes, gy=gy, x=x)
        if 0 in (*gy.shape, *x.shape):
            return super().linear_grad_w(gy, x)
        check_shape("linear_grad_w", "gy", gy, (len(x), gy.shape[1]))
        gw = _empty((gy.shape[1], x.shape[1]))
        geometry = Linear(len(x), x.shape[1], gy.shape[1])
        self._run(products.linear_grad_w, geometry, {SRC: x, DIFF_DST: gy, DIFF_WEIGHTS: gw})
        return gw

    def relu(self, x: np.ndarray, drop: DropoutMask | None = None) -> np.ndarray:
        """See Backend."""
        check_dtypes("relu", self.dtypes, x=x)
        y = _empty(x.shape)
        self._run(builders.relu, x.size, {SRC: x, DST: y})
        if drop is not None:
            y *= dropout_factor(y, drop)
        return y

    def relu_grad(self, gy: np.ndarray, y: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """See Backend."""
        check_dtypes("relu_grad", self.dtypes, gy=gy, y=y)
        check_shape("relu_grad", "gy", gy, y.shape)
        gx = _empty(y.shape)
        self._run(builders.relu_grad, y.size, {DIFF_DST: gy, DST: y, DIFF_SRC: gx})
        if scale != 1.0:
            gx *= gx.dtype.type(scale)
        return gx

    def max_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> tuple[np.ndarray, np.ndarray]:
        """See Backend. Of equal elements oneDNN, too, takes the first in row-major order."""
        check_dtypes("max_pool2d", self.dtypes, x=x)
        y = _empty(pool2d_y_shape("max_pool2d", x.shape, kernel, stride, pad))
        geometry = Pool(x.shape, y.shape, kernel, stride, pad)
        workspace = self._empty_workspace(builders.max_pool2d, geometry)
        self._run(builders.max_pool2d, geometry, {SRC: x, DST: y, WORKSPACE: workspace})
        return y, workspace

    def max_pool2d_grad(
        self, gy: np.ndarray, workspace: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("max_pool2d_grad", self.dtypes, gy=gy)
        check_shape("max_pool2d_grad", "gy", gy, pool2d_y_shape("max_pool2d_grad", x_shape, kernel, stride, pad))
        gx = _empty(x_shape)
        geometry = Pool(x_shape, gy.shape, kernel, stride, pad)
        self._run(builders.max_pool2d_grad, geometry, {DIFF_DST: gy, WORKSPACE: workspace, DIFF_SRC: gx})
        return gx

    def avg_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d", self.dtypes, x=x)
        y = _empty(pool2d_y_shape("avg_pool2d", x.shape, kernel, stride, pad))
        self._run(builders.avg_pool2d, Pool(x.shape, y.shape, kernel, stride, pad), {SRC: x, DST: y})
        return y

    def avg_pool2d_grad(self, gy: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d_grad", self.dtypes, gy=gy)
        check_shape("avg_pool2d_grad", "gy", gy, pool2d_y_shape("avg_pool2d_grad", x_shape, kernel, stride, pad))
        gx = _empty(x_shape)
        geometry = Pool(x_shape, gy.shape, kernel, stride, pad)
        self._run(builders.avg_pool2d_grad, geometry, {DIFF_DST: gy, DIFF_SRC: gx})
        return gx

    def lrn(self, x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> tuple[np.ndarray, np.ndarray]:
        """See Backend. NumPy computes it where `_lrn_kernel_is_sound` says that the library should not."""
        check_dtypes("lrn", self.dtypes, x=x)
        check_lrn("lrn", x.shape, size)
        if not self._lrn_kernel_is_sound(size, beta):
            return self._numpy.lrn(x, size, alpha, beta, k)
        y = _empty(x.shape)
        geometry = Lrn(x.shape, size, alpha, beta, k)
        workspace = self._empty_workspace(builders.lrn, geometry)
        self._run(builders.lrn, geometry, {SRC: x, DST: y, WORKSPACE: workspace})
        return y, workspace

    def lrn_grad(
        self, gy: np.ndarray, x: np.ndarray, workspace: np.ndarray, size: int, alpha: float, beta: float, k: float
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("lrn_grad", self.dtypes, gy=gy, x=x)
        check_lrn("lrn_grad", x.shape, size)
        check_shape("lrn_grad", "gy", gy, x.shape)
        if not self._lrn_kernel_is_sound(size, beta):
            return self._numpy.lrn_grad(gy, x, workspace, size, alpha, beta, k)
        gx = _empty(x.shape)
        arrays = {SRC: x, DIFF_DST: gy, WORKSPACE: workspace, DIFF_SRC: gx}
        self._run(builders.lrn_grad, Lrn(x.shape, size, alpha, beta, k), arrays)
        return gx

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
        if skip is None or not skip[0]:
            blocked_momentum_sgd(w, v, g, lr, momentum, weight_decay, scale, copy)

    def _lrn_kernel_is_sound(self, size: int, beta: float) -> bool:
        """Return whether oneDNN's LRN is right and fast, as found by trial of version 3.2 against naive loops.

        With AVX-512 its gradient crashes at size 1, and is wrong from size 7 on for channel counts that are not
        multiples of 16. With another beta, or without AVX-512, it is right but slower than NumPy.
        """
        return size in {3, 5} and beta in {0.75, 1.0} and self.library.isa == "AVX-512"

    def _run(self, build: "_Builder", geometry: _Geometry, arrays: Mapping[int, np.ndarray]) -> None:
        with _named_in_errors(build, geometry):
            contiguous = {argument: np.ascontiguousarray(array) for argument, array in arrays.items()}
            self._primitive(build, geometry).run(contiguous)

    def _empty_workspace(self, build: "_Builder", geometry: _Geometry) -> np.ndarray:
        with _named_in_errors(build, geometry):
            return self._primitive(build, geometry).empty(WORKSPACE)

    def _primitive(self, build: "_Builder", geometry: _Geometry) -> Primitive:
        """Return the calling thread's primitive, built for the number of OpenMP threads that it now runs on."""
        key = (build, geometry, self.library.max_threads())
        primitives = self._thread.primitives
        if key not in primitives:
            primitives[key] = build(self._thread.context, geometry)
        return primitives[key]


_Builder = Callable[[Context, Any], Primitive]


class _ThreadState(threading.local):
    """Each thread's own primitives; __init__ runs anew in every thread that looks."""

    def __init__(self, library: Library) -> None:
        self.context = Context(library)
        self.primitives: dict[Any, Primitive] = {}


@contextmanager
def _named_in_errors(build: _Builder, geometry: _Geometry) -> Iterator[None]:
    try:
        yield
    except OneDnnError as error:
        raise RuntimeError(f"{build.__name__} failed: {error}, for {geometry}") from error


def _empty(shape: Shape) -> np.ndarray:
    """Return the array for a result."""
    return np.empty(shape, np.float32)
