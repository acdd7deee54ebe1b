"""A backend whose operations compute nothing: each writes down the kernel that it would be."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, DropoutMask, Memory, Pair, Shape, T, pooled_size
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.planner.ghost import Ghost, xp_of
from owt_mpi.planner.kernel import Kernel, Operand
from owt_mpi.planner.recording import Recording

# FLOP an element: as in op_kernels and costs, for the largest operand
_POOL, _LRN, _LRN_GRAD, _LOSS, _SGD = 1, 9, 19, 11, 6


class GhostBackend:
    """Works on ghosts and writes kernels into `recording`, as its operations fuse them; bytes are the least."""

    name = "ghost"
    dtypes: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.float16))

    def __init__(self, recording: Recording, is_gpu: bool) -> None:
        self._recording = recording
        self.device: str | None = "planned" if is_gpu else None
        self.xp: Any = xp_of(self._note)

    def from_host(self, array: np.ndarray) -> Array:
        return self._new(array.shape, array.dtype)

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def start_normalise(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], Array]:
        return lambda: self._new(pixels.shape, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return np.zeros(array.shape, array.dtype)

    def start_to_host(self, array: Array) -> Callable[[], np.ndarray]:
        return lambda: np.zeros(array.shape, array.dtype)

    def synchronize(self) -> None:
        return None

    def memory(self) -> list[Memory]:
        return []

    def set_num_threads(self, num_threads: int) -> None:
        return None

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        return function

    def each_time(self, call: Callable[[], None]) -> None:
        call()

    def conv2d(self, x: Array, w: Array, b: Array | None, stride: Pair, pad: Pair, relu: bool = False) -> Array:
        shape = Conv2dOp(stride, pad).out_shape(x.shape, w.shape)
        return self._run("conv2d", (x, w, b), self._new(shape, x.dtype), _conv_flop(x.shape, w.shape, stride, pad))

    def conv2d_grad_x(self, gy: Array, w: Array, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        gx = self._new(x_shape, gy.dtype)
        return self._run("conv2d_grad_x", (gy, w), gx, _conv_flop(x_shape, w.shape, stride, pad))

    def conv2d_grad_w(
        self, gy: Array, x: Array, stride: Pair, pad: Pair, w_shape: Shape, with_bias: bool
    ) -> tuple[Array, Array | None]:
        gw = self._new(w_shape, gy.dtype)
        self._run("conv2d_grad_w", (gy, x), gw, _conv_flop(x.shape, w_shape, stride, pad))
        return gw, self._new((w_shape[0],), gy.dtype) if with_bias else None

    def max_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Array]:
        y = self._pooled(x, kernel, stride, pad)
        places = self._new(y.shape, np.uint8)
        self._run("max_pool2d", (x, places), y, other=_POOL * kernel[0] * kernel[1] * y.size)
        return y, places

    def max_pool2d_grad(
        self, gy: Array, workspace: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape
    ) -> Array:
        return self._run("max_pool2d_grad", (gy, workspace), self._new(x_shape, gy.dtype), other=_POOL * gy.size)

    def avg_pool2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Array:
        y = self._pooled(x, kernel, stride, pad)
        return self._run("avg_pool2d", (x,), y, other=_POOL * kernel[0] * kernel[1] * y.size)

    def avg_pool2d_grad(self, gy: Array, kernel: Pair, stride: Pair, pad: Pair, x_shape: Shape) -> Array:
        other = _POOL * kernel[0] * kernel[1] * gy.size
        return self._run("avg_pool2d_grad", (gy,), self._new(x_shape, gy.dtype), other=other)

    def lrn(self, x: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
        return self._run("lrn", (x,), x.copy(), other=_LRN * x.size), self._new((0,), x.dtype)

    def lrn_grad(self, gy: Array, x: Array, workspace: Array, size: int, alpha: float, beta: float, k: float) -> Array:
        return self._run("lrn_grad", (gy, x), x.copy(), other=_LRN_GRAD * x.size)

    def linear(self, x: Array, w: Array, b: Array | None, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        return self._run(
            "linear", (x, w, b), self._new((x.shape[0], w.shape[0]), x.dtype), _linear_flop(x.shape, w.shape)
        )

    def linear_grad_x(self, gy: Array, w: Array) -> Array:
        gx = self._new((gy.shape[0], w.shape[1]), gy.dtype)
        return self._run("linear_grad_x", (gy, w), gx, _linear_flop(gx.shape, w.shape))

    def linear_grad_w(self, gy: Array, x: Array) -> Array:
        gw = self._new((gy.shape[1], x.shape[1]), gy.dtype)
        return self._run("linear_grad_w", (gy, x), gw, _linear_flop(x.shape, gw.shape))

    def add_bias(self, x: Array, b: Array, relu: bool = False, drop: DropoutMask | None = None) -> Array:
        return self._run("add_bias", (x, b), x.copy())

    def bias_grad(self, gy: Array) -> Array:
        return self._run("bias_grad", (gy,), self._new((gy.shape[1],), gy.dtype))

    def relu(self, x: Array, drop: DropoutMask | None = None) -> Array:
        return self._run("relu", (x,), x.copy())

    def relu_grad(self, gy: Array, y: Array, scale: float = 1.0) -> Array:
        return self._run("relu_grad", (gy, y), y.copy())

    def dropout(self, x: Array, mask: DropoutMask) -> tuple[Array, Any]:
        return self._run("dropout", (x,), x.copy()), None

    def dropout_grad(self, gy: Array, mask: DropoutMask, workspace: Any) -> Array:
        return self._run("dropout_grad", (gy,), gy.copy())

    def logistic_loss(self, z: Array, labels: np.ndarray, first_class: int) -> tuple[Array, Array]:
        return self._new((), z.dtype), self._run("logistic_loss", (z,), z.copy(), other=_LOSS * z.size)

    def softmax_max(self, z: Array) -> Array:
        return self._run("softmax_max", (z,), self._new((z.shape[0], 1), z.dtype))

    def softmax_sum(self, z: Array, row_max: Array) -> Array:
        return self._run("softmax_sum", (z, row_max), row_max.copy())

    def softmax_loss(
        self, z: Array, row_max: Array, row_sum: Array, labels: np.ndarray, first_class: int
    ) -> tuple[Array, Array]:
        return self._new((), z.dtype), self._run("softmax_loss", (z, row_max, row_sum), z.copy(), other=_LOSS * z.size)

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
        self._run("momentum_sgd", (w, v, g, v, copy), w, other=_SGD * w.size)

    def find_overflow(self, arrays: Sequence[Array]) -> Array:
        return self._run("find_overflow", tuple(arrays), self._new((1,), np.int32))

    def _run(
        self, work: str, read: Sequence[Array | None], result: Ghost, flop: int = 0, other: int | None = None
    ) -> Ghost:
        """Write down a kernel that makes `result`, and return that."""
        reads = tuple(Operand("", array.nbytes) for array in read if array is not None)
        other_flop = result.size if other is None and not flop else other or 0
        kernel = Kernel("", work, reads, (Operand("", result.nbytes),), flop, other_flop)
        self._recording.events.append(kernel)
        return result

    def _new(self, shape: Shape, dtype: Any) -> Ghost:
        return Ghost(shape, dtype, self._note)

    def _note(self, work: str, num_bytes: int) -> None:
        """Write down element-wise work outside of the backend's operations."""
        self._recording.events.append(Kernel("", work, (Operand("", num_bytes),), ()))

    def _pooled(self, x: Array, kernel: Pair, stride: Pair, pad: Pair) -> Ghost:
        sides = (pooled_size(x.shape[i + 1], kernel[i], stride[i], pad[i]) for i in (0, 1))
        return self._new((x.shape[0], *sides, x.shape[3]), x.dtype)


def _conv_flop(x: Shape, w: Shape, stride: Pair, pad: Pair) -> int:
    return 2 * Conv2dOp(stride, pad).multiply_adds(x, w)


def _linear_flop(x: Shape, w: Shape) -> int:
    return 2 * LinearOp().multiply_adds(x, w)
