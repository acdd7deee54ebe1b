"""Arrays on the pretended device: as strict as CuPy's, and where CuPy would be lenient and slow, stricter."""

import operator
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fake_cupy.blocks import Block, CUDARuntimeError, Use
from tests.fake_cupy.device import get_device_id
from tests.fake_cupy.engine import check_idle, get_current_stream
from tests.fake_cupy.memory import Allocation, allocate, pinned_view

NO_CONVERSION = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


class ndarray:
    """cupy.ndarray over host memory that its owner may not look at. `_a` is the NumPy view that operations use."""

    __array_ufunc__ = None  # NumPy's scalars and arrays leave operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        assert memptr is None
        assert strides is None
        dtype = np.dtype(dtype)
        shape = (shape,) if isinstance(shape, int | np.integer) else tuple(operator.index(length) for length in shape)
        size = int(np.prod(shape, dtype=np.int64))
        self._allocation = allocate(size * dtype.itemsize)
        flat = self._allocation.block.bytes[: size * dtype.itemsize].view(dtype)
        self._a = flat.reshape(shape, order="F" if order == "F" else "C")

    @classmethod
    def _view_of(cls, array: np.ndarray, allocation: Allocation) -> "ndarray":
        view = cls.__new__(cls)
        view._a, view._allocation = array, allocation
        return view

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    ndim = property(lambda self: self._a.ndim)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    T = property(lambda self: ndarray._view_of(self._a.T, self._allocation))
    device = property(lambda self: SimpleNamespace(id=self._block.device))
    data = property(lambda self: SimpleNamespace(ptr=self._a.__array_interface__["data"][0], device=self.device))

    @property
    def flags(self) -> SimpleNamespace:
        return SimpleNamespace(c_contiguous=self._a.flags.c_contiguous, f_contiguous=self._a.flags.f_contiguous)

    @property
    def _block(self) -> Block:
        return self._allocation.block

    @property
    def _use(self) -> Use:
        return self._block, self._a

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        check_idle(*self._use, "a reader of __cuda_array_interface__")
        interface = dict(self._a.__array_interface__)
        interface.pop("descr", None)
        return {**interface, "version": 3, "stream": None}

    def __array__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(NO_CONVERSION)

    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True) -> Any:
        """The copy is complete on return, but where `blocking` is False and `out` is pinned memory."""
        assert order == "C"
        stream = stream or get_current_stream()
        if out is None:
            out, blocking = np.empty(self.shape, self.dtype), True
        if out.shape != self.shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}, the array {self.dtype} {self.shape}")
        out.reshape(-1).view(np.uint8).fill(0xFF)  # whoever reads too early gets NaN
        if not self._a.flags.c_contiguous:
            with stream:  # CuPy makes a contiguous copy there, and leaves the thread's current stream as this does
                pass
        source = self._a
        stream._enqueue(lambda: np.copyto(out, source), reads=[self._use])
        if blocking or pinned_view(out) is None:
            stream.synchronize()
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        pinned = pinned_view(arr) if arr.flags.c_contiguous else None
        source = arr.copy() if pinned is None else pinned  # pageable memory is staged at once
        target, stream = self._a, stream or get_current_stream()
        if pinned is None:
            stream._refuse_in_capture("a copy from memory that is not pinned")
        stream._enqueue(lambda: np.copyto(target, source), writes=[self._use])

    def item(self) -> Any:
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> "Iterator[ndarray]":
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> "ndarray":
        check_index(index)
        whole = index if isinstance(index, tuple) else (index,)
        view = self._a[whole if ... in whole else (*whole, ...)]  # with one, a single element is an array without axes
        return ndarray._view_of(view, self._allocation)

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        uses, raw = unwrap([value])
        if isinstance(index, ndarray):  # a mask
            assert index.dtype == bool
            assert index.shape == self.shape
            target, mask = self._a, index._a
            enqueue(lambda: target.__setitem__(mask, raw[0]), [*uses, index._use], [self._use])
            return
        check_index(index)
        target = self[index]._a
        np.broadcast_to(np.empty(getattr(value, "shape", ()), bool), target.shape)  # ValueError now, not when it runs
        enqueue(lambda: np.copyto(target, raw[0], casting="unsafe"), uses, [self._use_of(target)])

    def _use_of(self, view: np.ndarray) -> Use:
        return self._block, view

    def fill(self, value: Any) -> None:
        self[...] = value

    def reshape(self, *shape: Any) -> "ndarray":
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape
        view = self._a.view()
        try:
            view.shape = shape  # never copies
        except AttributeError:
            return self.copy().reshape(*shape)
        return ndarray._view_of(view, self._allocation)

    def ravel(self) -> "ndarray":
        return self.reshape(-1)

    def transpose(self, *axes: int) -> "ndarray":
        return ndarray._view_of(self._a.transpose(*axes), self._allocation)

    def view(self, dtype: Any = None) -> "ndarray":
        return ndarray._view_of(self._a.view() if dtype is None else self._a.view(dtype), self._allocation)

    def copy(self, order: str = "C") -> "ndarray":
        return self.astype(self.dtype, order=order)

    def astype(self, dtype: Any, order: str = "K", *, copy: bool = True) -> "ndarray":
        if not copy and self.dtype == np.dtype(dtype):
            return self
        is_f = order == "K" and self._a.flags.f_contiguous and not self._a.flags.c_contiguous
        result = ndarray(self.shape, dtype, order="F" if is_f else order)
        source, target = self._a, result._a
        enqueue(lambda: np.copyto(target, source, casting="unsafe"), [self._use], [result._use])
        return result

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> "ndarray":
        assert dtype is None
        return reduce("sum", self, axis, out, keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> "ndarray":
        return reduce("max", self, axis, out, keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> "ndarray":
        return reduce("min", self, axis, out, keepdims)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> "ndarray":
        return reduce("all", self, axis, out, keepdims)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> "ndarray":
        return reduce("any", self, axis, out, keepdims)

    def __matmul__(self, other: Any) -> "ndarray":
        return matmul(self, other)


def check_index(index: Any) -> None:
    """Raise TypeError for an index that would not give a view."""
    for part in index if isinstance(index, tuple) else (index,):
        if not (part is None or part is Ellipsis or isinstance(part, int | np.integer | slice)):
            raise TypeError(f"index of type {type(part).__name__}: a copy on the device is none of what we use")


def unwrap(values: Sequence[Any]) -> tuple[list[Use], list[Any]]:
    """Return what an operation on `values` reads, and what NumPy computes it from. TypeError for host arrays."""
    uses, raw = [], []
    for value in values:
        if isinstance(value, ndarray):
            if value._block.device != get_device_id():
                raise CUDARuntimeError(f"array of device {value._block.device} used on device {get_device_id()}")
            uses.append(value._use)
            raw.append(value._a)
        elif isinstance(value, bool | int | float | np.generic):
            raw.append(value)
        else:
            raise TypeError(f"Unsupported type {type(value)}")
    return uses, raw


def enqueue(run: Callable[[], Any], reads: Sequence[Use], writes: Sequence[Use]) -> None:
    """Add an operation to the current stream."""
    get_current_stream()._enqueue(run, reads, writes)


def elementwise(ufunc: np.ufunc, *inputs: Any, out: Any = None, casting: str = "same_kind") -> ndarray:
    """Return ufunc(inputs), with NumPy's rules of types and shapes, in a new array or in `out`."""
    uses, raw = unwrap(inputs)
    kinds = [x.dtype if isinstance(x, np.ndarray | np.generic) else type(x) for x in raw]
    dtypes = ufunc.resolve_dtypes((*(np.dtype(bool) if kind is bool else kind for kind in kinds), None))
    shape = np.broadcast_shapes(*(np.shape(x) for x in raw))
    if out is None:
        out = ndarray(shape, dtypes[-1])
    elif not isinstance(out, ndarray):
        raise TypeError("return arrays must be of ArrayType")
    elif out.shape != shape:
        raise ValueError(f"output array of shape {out.shape} for a result of shape {shape}")
    elif not np.can_cast(dtypes[-1], out.dtype, casting):
        raise TypeError(f"output (typecode '{dtypes[-1]}') cannot be cast to '{out.dtype}' by {casting!r}")
    target = out._a
    enqueue(lambda: ufunc(*raw, out=target, casting="unsafe"), uses, [out._use])
    return out


def reduce(name: str, x: ndarray, axis: Any, out: Any, keepdims: bool) -> ndarray:
    """Return x reduced by NumPy's method `name`, in an array even where it has no axes."""
    assert out is None
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    result = ndarray(shape, getattr(np.ones(1, x.dtype), name)().dtype)
    source, target = x._a, result._a
    enqueue(lambda: getattr(np, name)(source, axis=axis, keepdims=keepdims, out=target), [x._use], [result._use])
    return result


def matmul(x1: Any, x2: Any, *, out: Any = None) -> ndarray:
    """Return the product of two matrices."""
    uses, (a, b) = unwrap([x1, x2])
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        raise ValueError(f"matmul of {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    out = ndarray((a.shape[0], b.shape[1]), a.dtype) if out is None else out
    if out.shape != (a.shape[0], b.shape[1]) or out.dtype != a.dtype:
        raise ValueError(f"matmul into {out.dtype} {out.shape}")
    target = out._a
    enqueue(lambda: np.matmul(a, b, out=target), uses, [out._use])
    return out


def _binary(ufunc: np.ufunc) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return the methods a.__op__(b), a.__rop__(b) and a.__iop__(b)."""
    return (
        lambda self, other: elementwise(ufunc, self, other),
        lambda self, other: elementwise(ufunc, other, self),
        lambda self, other: elementwise(ufunc, self, other, out=self),
    )


OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip
for _name, _ufunc in OPERATORS.items():
    for _prefix, _method in zip(("", "r", "i"), _binary(_ufunc), strict=True):
        setattr(ndarray, f"__{_prefix}{_name}__", _method)
for _name, _ufunc in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
                      "ne": np.not_equal}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_ufunc)[0])
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, ufunc=_ufunc: elementwise(ufunc, self))
