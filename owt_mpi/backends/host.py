"""What the backends share whose arrays are NumPy's: nothing to copy, nothing to wait for, and what NumPy does well."""

from collections.abc import Callable, Sequence
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi import rng
from owt_mpi.backends import threads
from owt_mpi.backends.base import DropoutMask, Memory, Shape, T
from owt_mpi.backends.host_memory import host_memory
from owt_mpi.backends.pixels import start_normalise_on_host
from owt_mpi.backends.precision import is_half

_BLOCK = 1 << 16  # elements that a core's cache holds with what is made of them


class HostBackend:
    """The part of the Backend protocol that is the same for every backend on the CPU."""

    xp: ModuleType = np
    device: str | None = None

    def from_host(self, array: np.ndarray) -> np.ndarray:
        """Return `array` itself."""
        return array

    def host_empty(self, shape: Shape, dtype: Any) -> np.ndarray:
        """See Backend."""
        return np.empty(shape, dtype)

    def start_normalise(
        self,
        pixels: np.ndarray,
        flips: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        colours: np.ndarray | None,
        dtype: np.dtype[Any],
    ) -> Callable[[], np.ndarray]:
        """See Backend. All is done when this returns."""
        return start_normalise_on_host(pixels, flips, mean, scale, colours, dtype)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        """Return `array` itself."""
        return array

    def start_to_host(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        """Return what gives `array` itself."""
        return lambda: array

    def synchronize(self) -> None:
        """Return at once: operations are done when they return."""

    def memory(self) -> list[Memory]:
        """See Backend."""
        return host_memory()

    def set_num_threads(self, num_threads: int) -> None:
        """Use `num_threads` threads in NumPy's matmul (process-wide) and in OpenMP (this calling thread)."""
        threads.set_num_threads(num_threads)

    def replayable(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return `function`."""
        return function

    def each_time(self, call: Callable[[], None]) -> None:
        """Make `call`."""
        call()

    def linear(
        self,
        x: np.ndarray,
        w: np.ndarray,
        b: np.ndarray | None,
        relu: bool = False,
        drop: DropoutMask | None = None,
    ) -> np.ndarray:
        """See Backend."""
        y: np.ndarray = x @ w.T
        if b is not None:
            y += b
        _rectify_and_drop(y, relu, drop)
        return y

    def linear_grad_x(self, gy: np.ndarray, w: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(gy @ w)

    def linear_grad_w(self, gy: np.ndarray, x: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(gy.T @ x)

    def add_bias(self, x: np.ndarray, b: np.ndarray, relu: bool = False, drop: DropoutMask | None = None) -> np.ndarray:
        """See Backend."""
        y: np.ndarray = x + b
        _rectify_and_drop(y, relu, drop)
        return y

    def bias_grad(self, gy: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(gy.sum(axis=0))

    def relu(self, x: np.ndarray, drop: DropoutMask | None = None) -> np.ndarray:
        """See Backend."""
        y = np.asarray(np.maximum(x, 0))
        _rectify_and_drop(y, False, drop)
        return y

    def relu_grad(self, gy: np.ndarray, y: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """See Backend."""
        passes = y > 0
        return np.asarray(gy * (passes if scale == 1.0 else passes * gy.dtype.type(scale)))

    def dropout(self, x: np.ndarray, mask: DropoutMask) -> tuple[np.ndarray, np.ndarray]:
        """See Backend. The workspace is what multiplies x."""
        factor = dropout_factor(x, mask)
        return x * factor, factor

    def dropout_grad(self, gy: np.ndarray, mask: DropoutMask, workspace: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(gy * workspace)

    def logistic_loss(self, z: np.ndarray, labels: np.ndarray, first_class: int) -> tuple[np.ndarray, np.ndarray]:
        """See Backend."""
        target, counted = _targets(z, labels, first_class)
        decay = np.exp(-np.abs(z))
        loss = (np.maximum(z, 0) + np.log1p(decay) - target * z) * counted
        sigmoid = np.where(z >= 0, 1, decay) / (1 + decay)
        return loss.sum(keepdims=True).reshape(()), (sigmoid - target) * counted

    def softmax_max(self, z: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(z.max(axis=1, keepdims=True))

    def softmax_sum(self, z: np.ndarray, row_max: np.ndarray) -> np.ndarray:
        """See Backend."""
        return np.asarray(np.exp(z - row_max).sum(axis=1, keepdims=True))

    def softmax_loss(
        self, z: np.ndarray, row_max: np.ndarray, row_sum: np.ndarray, labels: np.ndarray, first_class: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See Backend."""
        target, counted = _targets(z, labels, first_class)
        shifted = z - row_max
        loss = target * (np.log(row_sum) - shifted)
        return loss.sum(keepdims=True).reshape(()), (np.exp(shifted) / row_sum - target) * counted

    def find_overflow(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """See Backend. In blocks that stay in the cache: one pass over memory."""
        blocks = (
            flat[first : first + _BLOCK] for flat in map(np.ravel, arrays) for first in range(0, flat.size, _BLOCK)
        )
        return np.array([not all(map(_is_finite, blocks))], np.int32)


def dropout_factor(x: np.ndarray, mask: DropoutMask) -> np.ndarray:
    """Return what dropout multiplies each element of x by: 0 or the mask's scale."""
    columns = np.arange(mask.first_column, mask.first_column + prod(x.shape[1:]), dtype=np.uint64)
    indices = mask.rows.astype(np.uint64)[:, None] * np.uint64(mask.num_columns) + columns
    kept = rng.bernoulli(mask.key, indices, 1.0 - mask.rate).reshape(x.shape)
    return np.asarray(kept * x.dtype.type(mask.scale))


def _is_finite(block: np.ndarray) -> bool:
    """Return whether all numbers are. Halves are looked at as bits: NumPy asks of bfloat16 in six times as long."""
    if not is_half(block.dtype):
        return bool(np.isfinite(block).all())
    exponent = np.array(np.inf, block.dtype).view(np.uint16)
    return bool((block.view(np.uint16) & exponent).max(initial=0) < exponent)


def _rectify_and_drop(y: np.ndarray, relu: bool, drop: DropoutMask | None) -> None:
    """Let y be max(y, 0) if `relu`, and then be dropped by `drop`, if there is one; in place."""
    if relu:
        np.maximum(y, 0, out=y)
    if drop is not None:
        y *= dropout_factor(y, drop)


def _targets(z: np.ndarray, labels: np.ndarray, first_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return booleans: where z's rows have their labels, and, (n, 1), which rows have one."""
    classes = np.arange(first_class, first_class + z.shape[1])
    return labels[:, None] == classes, labels[:, None] >= 0
