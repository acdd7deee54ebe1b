"""Arrays of which only shape and dtype are there, so that a step of any size runs in no time and no memory."""

from collections.abc import Callable
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from owt_mpi.backends.base import Shape

Note = Callable[[str, int], None]
"""Takes note of element-wise work: its name, and the bytes that it moves."""
Axes = int | tuple[int, ...] | None


class Ghost:
    """An array without numbers. What is computed with it is a ghost too, of which `note`, if any, is told."""

    __array_ufunc__ = None  # an operation with a NumPy array is the ghost's

    def __init__(self, shape: Shape, dtype: Any, note: Note | None = None) -> None:
        self.shape, self.dtype, self.note = tuple(shape), np.dtype(dtype), note

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the array would have."""
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> "Ghost":
        return Ghost(self._dummy()[key].shape, self.dtype, self.note)

    def __setitem__(self, key: Any, values: Any) -> None:
        if isinstance(key, Ghost):  # where it is true
            self._tell("copy", key.nbytes + self.nbytes)
            return
        part = self[key]
        assert np.broadcast_shapes(part.shape, values.shape) == part.shape, (part.shape, values.shape)
        self._tell("copy", part.nbytes + values.nbytes)

    def reshape(self, *shape: Any) -> "Ghost":
        """Return it in another shape."""
        return Ghost(self._dummy().reshape(*shape).shape, self.dtype, self.note)

    def astype(self, dtype: Any, order: str = "C", copy: bool = True) -> "Ghost":
        """Return it in another dtype."""
        result = Ghost(self.shape, dtype, self.note)
        if copy or result.dtype != self.dtype:
            self._tell("convert", self.nbytes + result.nbytes)
        return result

    def view(self, dtype: Any) -> "Ghost":
        """Return its bits as another dtype of as many bytes."""
        assert np.dtype(dtype).itemsize == self.dtype.itemsize, (dtype, self.dtype)
        return Ghost(self.shape, dtype, self.note)

    def copy(self) -> "Ghost":
        """Return another."""
        return Ghost(self.shape, self.dtype, self.note)

    def sum(self, axis: Axes = None, keepdims: bool = False) -> "Ghost":
        """Return sums along axes, by default all."""
        axes = range(self.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        gone = {each % self.ndim for each in axes}
        shape = tuple(1 if i in gone else n for i, n in enumerate(self.shape) if keepdims or i not in gone)
        result = Ghost(shape, self.dtype, self.note)
        self._tell("reduce", self.nbytes + result.nbytes)
        return result

    max = min = mean = sum

    def _dummy(self) -> np.ndarray:
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def _with(self, other: Any) -> "Ghost":
        shape = () if np.isscalar(other) else other.shape
        result = Ghost(np.broadcast_shapes(self.shape, shape), self.dtype, self.note)
        self._tell("add", self.nbytes + prod(shape) * self.dtype.itemsize + result.nbytes)
        return result

    __add__ = __radd__ = __iadd__ = __mul__ = __rmul__ = __imul__ = _with
    __sub__ = __rsub__ = __isub__ = __truediv__ = __rtruediv__ = __itruediv__ = __pow__ = _with
    __and__ = __rshift__ = __irshift__ = __ilshift__ = _with

    def __ne__(self, other: object) -> "Ghost":  # type: ignore[override]
        """Return where elements differ, as arrays do."""
        return Ghost(self._with(other).shape, np.bool_, self.note)

    def __neg__(self) -> "Ghost":
        return self._with(1)

    def _tell(self, work: str, num_bytes: int) -> None:
        if self.note is not None:
            self.note(work, num_bytes)


def xp_of(note: Note | None = None) -> Any:
    """Return what backends offer of an array library, for ghosts that tell `note`."""

    def new(shape: Any, dtype: Any) -> Ghost:
        return Ghost(shape if isinstance(shape, tuple) else (shape,), dtype, note)

    def concatenate(arrays: Any, axis: int = 0) -> Ghost:
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return new(tuple(shape), arrays[0].dtype)

    return SimpleNamespace(
        zeros=new,
        empty=new,
        full=lambda shape, value, dtype: new(shape, dtype),
        empty_like=lambda x: new(x.shape, x.dtype),
        ascontiguousarray=lambda x: x,
        concatenate=concatenate,
        stack=lambda arrays: new((len(arrays), *arrays[0].shape), arrays[0].dtype),
    )
