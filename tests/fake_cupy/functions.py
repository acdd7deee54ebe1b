"""The functions of the cupy namespace that make, join and transform arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fake_cupy.ndarray import elementwise, enqueue, matmul, ndarray, unwrap

UFUNCS = (
    "absolute", "add", "divide", "equal", "exp", "expm1", "greater", "greater_equal", "isfinite", "isinf", "isnan",
    "left_shift", "less", "less_equal", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum",
    "minimum", "multiply", "negative", "not_equal", "right_shift", "sqrt", "square", "subtract", "true_divide",
)  # fmt: skip


def ufunc_of(ufunc: np.ufunc) -> Callable[..., ndarray]:
    """Return CuPy's function of that name. No argument may be a host array, and one must be on the device."""

    def call(*inputs: Any, out: Any = None) -> ndarray:
        assert len(inputs) == ufunc.nin, f"{ufunc.__name__} takes {ufunc.nin} arrays; pass the result as out="
        assert any(isinstance(x, ndarray) for x in inputs), "arithmetic of scalars needs no device"
        return elementwise(ufunc, *inputs, out=out)

    return call


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array full of NaN."""
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    """Return an array of `fill_value`."""
    result = ndarray(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order=order)
    result.fill(fill_value)
    return result


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of zeros."""
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of ones."""
    return full(shape, 1, dtype, order)


def empty_like(prototype: ndarray, dtype: Any = None) -> ndarray:
    """Return an array of that shape, full of NaN."""
    assert prototype.flags.c_contiguous, "CuPy keeps the order of axes in memory"
    return empty(prototype.shape, dtype or prototype.dtype)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    """Return an array of that shape, of zeros."""
    assert a.flags.c_contiguous, "CuPy keeps the order of axes in memory"
    return zeros(a.shape, dtype or a.dtype)


def arange(start: int, stop: int | None = None, step: int = 1, dtype: Any = None) -> ndarray:
    """Return a range of numbers."""
    values = np.arange(start, stop, step, dtype)
    return asarray(values)


def asarray(a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False) -> ndarray:
    """Return `a`, from the host or the device, on the device; itself if it is that already."""
    assert order is None
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    host = np.array(a, dtype, order="C")
    result = ndarray(host.shape, host.dtype)
    result.set(host)
    return result


def array(obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    """Return a copy of `obj` on the device."""
    assert copy
    return obj.astype(dtype or obj.dtype) if isinstance(obj, ndarray) else asarray(obj, dtype)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    """Return `a`, or a C-contiguous copy of it; with at least one axis."""
    unwrap([a])
    a = asarray(a, dtype)
    return (a if a.flags.c_contiguous else a.copy()).reshape(a.shape or 1)


def asnumpy(a: ndarray, stream: Any = None, order: str = "C", out: np.ndarray | None = None) -> np.ndarray:
    """Return a copy on the host."""
    return np.asarray(a.get(stream, order, out))


def concatenate(tup: Sequence[ndarray], axis: int = 0) -> ndarray:
    """Return the arrays joined along `axis`."""
    uses, raw = unwrap(tup)
    assert len(uses) == len(raw), "arrays of the device alone"
    rests = {(*x.shape[: axis % x.ndim], None, *x.shape[axis % x.ndim + 1 :]) for x in raw}
    if len(rests) != 1:
        raise ValueError(f"concatenate along {axis}: shapes {[x.shape for x in raw]}")
    shape = list(raw[0].shape)
    shape[axis] = sum(x.shape[axis] for x in raw)
    result = ndarray(tuple(shape), np.result_type(*(x.dtype for x in raw)))
    target = result._a
    enqueue(lambda: np.concatenate(raw, axis=axis, out=target), uses, [result._use])
    return result


def stack(tup: Sequence[ndarray], axis: int = 0) -> ndarray:
    """Return the arrays, all of one shape, joined along a new axis, which is the first."""
    assert axis == 0
    return concatenate([x[None] for x in tup])


def where(condition: ndarray, x: Any, y: Any) -> ndarray:
    """Return x where `condition`, else y."""
    uses, raw = unwrap([condition, x, y])
    if condition.dtype != bool:
        raise TypeError("where needs a condition of booleans")
    dtype = np.add.resolve_dtypes((*(v.dtype if hasattr(v, "dtype") else type(v) for v in raw[1:]), None))[-1]
    result = ndarray(np.broadcast_shapes(*(np.shape(v) for v in raw)), dtype)
    target = result._a
    enqueue(lambda: np.copyto(target, np.where(*raw), casting="unsafe"), uses, [result._use])
    return result


FUNCTIONS: dict[str, Any] = {
    **{name: ufunc_of(getattr(np, name)) for name in UFUNCS},
    "abs": ufunc_of(np.absolute),
    **{
        function.__name__: function
        for function in (
            empty, full, zeros, ones, empty_like, zeros_like, arange, asarray, array, ascontiguousarray, asnumpy,
            concatenate, stack, matmul, where,
        )
    },
}  # fmt: skip
