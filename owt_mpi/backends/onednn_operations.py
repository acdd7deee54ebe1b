"""What oneDNN computes of a backend's operations: convolutions, matrix products, ReLU and pooling on NHWC arrays.

Primitives are built once for a geometry and kept, in each Python thread its own: their memory objects and scratchpad
are in use while they run. So threads may share one backend, as ranks that live in one process do.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from owt_mpi.backends import onednn_builders as builders
from owt_mpi.backends import onednn_products as products
from owt_mpi.backends.base import Backend, DropoutMask, Pair, Shape
from owt_mpi.backends.checks import check_dtypes, check_shape, conv2d_y_shape, pool2d_y_shape
from owt_mpi.backends.host import dropout_factor
from owt_mpi.backends.onednn_api import (
    BFLOAT16,
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    FLOAT32,
    SRC,
    WEIGHTS,
    WORKSPACE,
    Library,
    OneDnnError,
)
from owt_mpi.backends.onednn_builders import Conv, Lrn, Pool
from owt_mpi.backends.onednn_primitive import Context, Primitive
from owt_mpi.backends.onednn_products import Linear

_Geometry = Conv | Linear | Pool | Lrn | int


class OneDnnOperations:
    """The operations, on arrays of `dtype`: float32 or bfloat16.

    Products over nothing are `by_hand`'s. Workspaces are bytes in the library's layout.
    """

    def __init__(self, library: Library, dtype: np.dtype[Any], by_hand: Backend) -> None:
        self.library = library
        self.dtypes: tuple[np.dtype[Any], ...] = (dtype,)
        self._dtype, self._by_hand = dtype, by_hand
        self._thread = _ThreadState(library, FLOAT32 if dtype == np.float32 else BFLOAT16)

    def conv2d(
        self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, pad: Pair, relu: bool = False
    ) -> np.ndarray:
        """See Backend."""
        check_dtypes("conv2d", self.dtypes, x=x, w=w, **({} if b is None else {"b": b}))
        y = self._empty(conv2d_y_shape("conv2d", x.shape, w.shape, stride, pad))
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
        gx = self._empty(x_shape)
        geometry = Conv(x_shape, w.shape, gy.shape, stride, pad, bias=False)
        self._run(builders.conv2d_grad_x, geometry, {DIFF_DST: gy, WEIGHTS: w, DIFF_SRC: gx})
        return gx

    def conv2d_grad_w(
        self, gy: np.ndarray, x: np.ndarray, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See Backend."""
        check_dtypes("conv2d_grad_w", self.dtypes, gy=gy, x=x)
        check_shape("conv2d_grad_w", "gy", gy, conv2d_y_shape("conv2d_grad_w", x.shape, w_shape, stride, pad))
        gw, gb = self._empty(w_shape), self._empty(w_shape[:1]) if with_bias else None
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
            return np.asarray(self._by_hand.linear(x, w, b, relu, drop))
        check_shape("linear", "x", x, (len(x), w.shape[1]))
        y = np.empty((len(x), len(w)), self._dtype if drop is None else np.float32)  # rounded once, when it is dropped
        arrays = {SRC: x, WEIGHTS: w, DST: y}
        if b is not None:
            check_shape("linear", "b", b, w.shape[:1])
            arrays[BIAS] = b
        geometry = Linear(len(x), x.shape[1], len(w), b is not None, wide=drop is not None)
        self._run(products.linear, geometry, arrays)
        if relu:
            np.maximum(y, 0, out=y)  # not by oneDNN, which makes 0 of NaN
        return self._dropped(y, drop)

    def linear_grad_x(self, gy: np.ndarray, w: np.ndarray) -> np.ndarray:
        """See Backend."""
        check_dtypes("linear_grad_x", self.dtypes, gy=gy, w=w)
        if 0 in (*gy.shape, *w.shape):
            return np.asarray(self._by_hand.linear_grad_x(gy, w))
        check_shape("linear_grad_x", "gy", gy, (len(gy), len(w)))
        gx = self._empty((len(gy), w.shape[1]))
        geometry = Linear(len(gy), w.shape[1], len(w))
        self._run(products.linear_grad_x, geometry, {DIFF_DST: gy, WEIGHTS: w, DIFF_SRC: gx})
        return gx

    def linear_grad_w(self, gy: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See Backend."""
        check_dtypes("linear_grad_w", self.dtypes, gy=gy, x=x)
        if 0 in (*gy.shape, *x.shape):
            return np.asarray(self._by_hand.linear_grad_w(gy, x))
        check_shape("linear_grad_w", "gy", gy, (len(x), gy.shape[1]))
        gw = self._empty((gy.shape[1], x.shape[1]))
        geometry = Linear(len(x), x.shape[1], gy.shape[1])
        self._run(products.linear_grad_w, geometry, {SRC: x, DIFF_DST: gy, DIFF_WEIGHTS: gw})
        return gw

    def relu(self, x: np.ndarray, drop: DropoutMask | None = None) -> np.ndarray:
        """See Backend."""
        check_dtypes("relu", self.dtypes, x=x)
        y = self._empty(x.shape)
        self._run(builders.relu, x.size, {SRC: x, DST: y})
        return self._dropped(y, drop)

    def relu_grad(self, gy: np.ndarray, y: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """See Backend."""
        check_dtypes("relu_grad", self.dtypes, gy=gy, y=y)
        check_shape("relu_grad", "gy", gy, y.shape)
        gx = self._empty(y.shape)
        self._run(builders.relu_grad, y.size, {DIFF_DST: gy, DST: y, DIFF_SRC: gx})
        return gx if scale == 1.0 else self._rounded(_wide(gx) * np.float32(scale))

    def max_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> tuple[np.ndarray, np.ndarray]:
        """See Backend. Of equal elements oneDNN, too, takes the first in row-major order."""
        check_dtypes("max_pool2d", self.dtypes, x=x)
        y = self._empty(pool2d_y_shape("max_pool2d", x.shape, kernel, stride, pad))
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
        gx = self._empty(x_shape)
        geometry = Pool(x_shape, gy.shape, kernel, stride, pad)
        self._run(builders.max_pool2d_grad, geometry, {DIFF_DST: gy, WORKSPACE: workspace, DIFF_SRC: gx})
        return gx

    def avg_pool2d(self, x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d", self.dtypes, x=x)
        y = self._empty(pool2d_y_shape("avg_pool2d", x.shape, kernel, stride, pad))
        self._run(builders.avg_pool2d, Pool(x.shape, y.shape, kernel, stride, pad), {SRC: x, DST: y})
        return y

    def avg_pool2d_grad(self, gy: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> np.ndarray:
        """See Backend."""
        check_dtypes("avg_pool2d_grad", self.dtypes, gy=gy)
        check_shape("avg_pool2d_grad", "gy", gy, pool2d_y_shape("avg_pool2d_grad", x_shape, kernel, stride, pad))
        gx = self._empty(x_shape)
        geometry = Pool(x_shape, gy.shape, kernel, stride, pad)
        self._run(builders.avg_pool2d_grad, geometry, {DIFF_DST: gy, DIFF_SRC: gx})
        return gx

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

    def _empty(self, shape: Shape) -> np.ndarray:
        """Return the array for a result."""
        return np.empty(shape, self._dtype)

    def _dropped(self, y: np.ndarray, drop: DropoutMask | None) -> np.ndarray:
        """Return y, or what `drop` leaves of it."""
        if drop is None:
            return y
        wide = _wide(y)
        wide *= dropout_factor(wide, drop)
        return self._rounded(wide)

    def _rounded(self, wide: np.ndarray) -> np.ndarray:
        return wide.astype(self._dtype, copy=False)


_Builder = Callable[[Context, Any], Primitive]


class _ThreadState(threading.local):
    """Each thread's own primitives; __init__ runs anew in every thread that looks."""

    def __init__(self, library: Library, data_type: int) -> None:
        self.context = Context(library, data_type)
        self.primitives: dict[Any, Primitive] = {}


@contextmanager
def _named_in_errors(build: _Builder, geometry: _Geometry) -> Iterator[None]:
    try:
        yield
    except OneDnnError as error:
        raise RuntimeError(f"{build.__name__} failed: {error}, for {geometry}") from error


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False)
