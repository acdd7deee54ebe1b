"""Compiling our CUDA kernels for what a launch needs, and launching them; cuda_kernels.py says which and with what.

Of CuPy no more is used than RawModule(code=, options=).get_function(name)(grid, block, args), and of arrays shape,
size, dtype, flags.c_contiguous and data.ptr.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Pair, Shape

BLOCK = 256  # MAX_THREADS of common.cuh
MAX_GRID_Y = 65535
_STORED = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16", "uint16": "bfloat16"}


@cache
def kernel_source(file: str) -> str:
    """Return the text of kernels/`file`.cu with common.cuh in the place of its #include, as RawModule needs it."""
    folder = files("owt_mpi.backends") / "kernels"
    head, found, tail = (folder / f"{file}.cu").read_text().partition('#include "common.cuh"\n')
    assert found, f"{file}.cu does not include common.cuh"
    common = (folder / "common.cuh").read_text()
    return f'{head}#line 1 "common.cuh"\n{common}#line {head.count(chr(10)) + 2} "{file}.cu"\n{tail}'


class KernelLauncher:
    """Kernels compiled when they are first needed, and kept."""

    def __init__(self) -> None:
        import cupy

        self._raw_module = cupy.RawModule
        self._functions: dict[tuple[str, ...], Any] = {}

    def _function(self, file: str, name: str, stored: Array, lanes: int, **defines: str) -> Any:
        """Return kernel `name` of kernels/`file`.cu for numbers of the dtype of `stored`."""
        values = {"STORED": stored_type(stored), "LANES": str(lanes), **defines}
        key = (file, name, *values.values())
        if key not in self._functions:
            options = tuple(f"-D{macro}={value}" for macro, value in values.items())
            module = self._raw_module(code=kernel_source(file), options=options)
            self._functions[key] = module.get_function(name)
        return self._functions[key]

    def _flat(
        self, file: str, name: str, stored: Array, lanes: int, arguments: tuple[Any, ...], **defines: str
    ) -> None:
        """Launch a thread for each pack of `stored` as a flat array, the last of which may be short."""
        function = self._function(file, name, stored, lanes, **defines)
        function((ceil_div(stored.size, lanes * BLOCK),), (BLOCK,), arguments)

    def _over_images(
        self,
        file: str,
        name: str,
        shape: Shape,
        arrays: tuple[Array, ...],
        arguments: tuple[Any, ...],
        **defines: str,
    ) -> None:
        """Launch a thread for each pack of an image of `shape`: x of the grid is in an image."""
        n, height, width, channels = shape
        lanes = lanes_of(16 // arrays[0].dtype.itemsize, channels, *arrays)
        grid = grid_of_rows(height * width * channels // lanes, n)
        self._function(file, name, arrays[0], lanes, **defines)(grid, (BLOCK,), (*arrays, *arguments))


def stored_type(array: Array) -> str:
    """Return what the kernels call the type of the numbers in `array`."""
    name = array.dtype.name
    assert name in _STORED, f"kernels know float32, float16 and bfloat16 (perhaps as uint16), not {name}"
    return _STORED[name]


def lanes_of(widest: int, row: int, *arrays: Array) -> int:
    """Return how many numbers a thread takes at once: `widest`, or 1 where rows or addresses are no multiple of it."""
    fits = row % widest == 0
    for array in arrays:
        fits = fits and array.data.ptr % min(16, widest * array.dtype.itemsize) == 0
    return widest if fits else 1


def check(dtype: Any, shape: Shape, *arrays: Array) -> None:
    """Assert what a kernel takes for granted: contiguous arrays of `dtype` and `shape`."""
    for array in arrays:
        assert array.dtype == dtype, f"{array.dtype} instead of {dtype}"
        assert tuple(array.shape) == tuple(shape), f"shape {array.shape} instead of {shape}"
        assert array.flags.c_contiguous, f"an array of shape {array.shape} is not C-contiguous"


def window_sizes(x_shape: Shape, y_size: Pair, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Any, ...]:
    """Return the arguments that describe sliding windows over images of `x_shape`, as the kernels order them."""
    return tuple(np.int32(size) for size in (*x_shape, *y_size, *kernel, *stride, *pad))


def grid_of_rows(packs: int, num_rows: int) -> tuple[int, int, int]:
    """Return the grid with a thread for each of `packs` in each row: x counts packs, y and z together count rows."""
    height = min(num_rows, MAX_GRID_Y)
    return (ceil_div(packs, BLOCK), height, ceil_div(num_rows, height))


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)
