"""What the tests of the CUDA kernels share: numbers as the kernels store them, and how near the results must be."""

import sys

import numpy as np
import pytest

from owt_mpi.backends.cuda_kernels import CudaKernels
from owt_mpi.parallel.wire_format import from_wire, to_wire
from tests.cuda_cpu import why_unavailable
from tests.cuda_cpu.device import DeviceArray, cupy_in_order

needs_gpp = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

ORDERS = (1, 5)  # of threads: descending and shuffled; ascending is what hides the most
TYPES = ("float32", "float16", "bfloat16")
UNIT = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # what rounding a result may add, relative
FLOAT_ERROR = 2e-6  # of the largest expected value


def make_kernels(monkeypatch: pytest.MonkeyPatch, order: int) -> CudaKernels:
    monkeypatch.setitem(sys.modules, "cupy", cupy_in_order(order))
    return CudaKernels()


def stored(values: np.ndarray, kind: str) -> np.ndarray:
    """Return `values` rounded to `kind`, as the kernels take them: bfloat16 as uint16."""
    if kind == "bfloat16":
        return to_wire(np.ascontiguousarray(values), "bfloat16").reshape(values.shape)
    return np.ascontiguousarray(values, kind)


def numbers(array: np.ndarray) -> np.ndarray:
    """Return what a stored array holds, as float64."""
    return (
        from_wire(array, "bfloat16", np.dtype(np.float32)).astype(np.float64)
        if array.dtype == np.uint16
        else (array.astype(np.float64))
    )


def normal(shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    """Return a stored array of normal numbers."""
    return stored(np.random.default_rng(seed).normal(size=shape), kind)


def garbage(shape: tuple[int, ...], dtype: object) -> np.ndarray:
    """Return an array as new memory may hold it: NaN, or -1."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[:] = 0xFF
    return array


def off_by_one(array: np.ndarray) -> np.ndarray:
    """Return a copy at an address that is a multiple of its items' size and of nothing more."""
    memory = np.empty(array.size + 1, array.dtype)
    start = 1 if memory.ctypes.data % 16 == 0 else 0
    copy = memory[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def device(*arrays: np.ndarray) -> list[DeviceArray]:
    return [DeviceArray(array) for array in arrays]


def assert_close(actual: np.ndarray, expected: np.ndarray, kind: str) -> None:
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    allowed = 1.01 * UNIT[kind] * np.abs(expected) + FLOAT_ERROR * max(1.0, np.abs(expected).max())
    result = numbers(actual)
    wrong = ~(np.abs(result - expected) <= allowed)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} differ, as {result[wrong][:4]} from {expected[wrong][:4]}"
