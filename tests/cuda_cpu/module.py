"""A stand-in for cupy.RawModule whose kernels take NumPy arrays, and take nothing else than what the GPU would take."""

import ctypes
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.cuda_cpu.build import build

# what the compiler calls the types of parameters, and the NumPy dtypes that hold them; bfloat16 its bits
DTYPES = {
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
    "i": np.dtype(np.int32),
    "j": np.dtype(np.uint32),
    "x": np.dtype(np.int64),
    "y": np.dtype(np.uint64),
    "t": np.dtype(np.uint16),
    "h": np.dtype(np.uint8),
    "b": np.dtype(np.bool_),
    "7float16": np.dtype(np.float16),
    "8bfloat16": np.dtype(np.uint16),
}
MAX_THREADS = 1024
MAX_BLOCK, MAX_GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


class DivergenceError(RuntimeError):
    """Some threads of a block wait at a __syncthreads() that others never reach: undefined on a GPU."""


class CpuModule:
    """The kernels of a module's text: `code` and `options` are those of cupy.RawModule."""

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        unknown = [option for option in options if not option.startswith(("-D", "-std="))]
        if unknown:
            raise ValueError(f"options {unknown} are not known here; only -DNAME=VALUE and -std= are")
        found = dict(KERNEL.findall(COMMENT.sub("", code)))
        self._library = ctypes.CDLL(str(build(code, options, list(found))))
        self._lock = threading.Lock()  # the threads of a launch have their places in static variables
        self._kernels = {
            name: CpuKernel(name, _parameter_names(text), self._library, self._lock) for name, text in found.items()
        }

    def get_function(self, name: str) -> "CpuKernel":
        """Return the kernel called `name`."""
        if name not in self._kernels:
            raise ValueError(f"there is no kernel {name!r}; the module has {', '.join(self._kernels)}")
        return self._kernels[name]


class CpuKernel:
    """One kernel. `reads` and `writes` are the places of its array parameters, const and other, among its arguments."""

    def __init__(self, name: str, parameters: list[str], library: ctypes.CDLL, lock: threading.Lock) -> None:
        self.name, self.parameters = name, parameters
        self._launch, self._lock = getattr(library, f"cuda_cpu_launch_{name}"), lock
        type_of = getattr(library, f"cuda_cpu_type_{name}")
        type_of.restype = ctypes.c_char_p
        mangled = [type_of(index).decode() for index in range(len(parameters))]
        self._dtypes = [DTYPES[text.removeprefix("P").removeprefix("K")] for text in mangled]
        self._is_array = [text.startswith("P") for text in mangled]
        self.reads = [index for index, text in enumerate(mangled) if text.startswith("PK")]
        self.writes = [index for index, text in enumerate(mangled) if text.startswith("P") and text[1] != "K"]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], order: int = 0) -> None:
        """Run all threads of all blocks."""
        sizes, held = self.check(grid, block, args)
        shape = (ctypes.c_uint * 6)(*sizes)
        pointers = (ctypes.c_void_p * len(held))(*[array.ctypes.data for array in held])
        with self._lock:
            result = self._launch(shape, ctypes.c_ulonglong(order), pointers)
        if result:
            raise DivergenceError(f"{self.name}: not all threads of a block reach the same __syncthreads()")

    def check(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]
    ) -> tuple[list[int], list[np.ndarray]]:
        """Return the sizes of a launch and what its arguments are in memory, or raise what launching it would."""
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, {self.parameters}; got {len(args)}")
        return self._checked_shape(grid, block), [self._argument(index, value) for index, value in enumerate(args)]

    def _checked_shape(self, grid: tuple[int, ...], block: tuple[int, ...]) -> list[int]:
        sizes = []
        for what, given, limit in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
            if not 1 <= len(given) <= 3:
                raise ValueError(f"{self.name}: the {what} {given} must have 1 to 3 sizes")
            padded = (*given, 1, 1)[:3]
            if not all(1 <= size <= most for size, most in zip(padded, limit, strict=True)):
                raise ValueError(f"{self.name}: the {what} {given} must lie between 1 and {limit}")
            sizes += padded
        if np.prod(sizes[3:]) > MAX_THREADS:
            raise ValueError(f"{self.name}: the block {block} has more than {MAX_THREADS} threads")
        return sizes

    def _argument(self, index: int, value: Any) -> np.ndarray:
        """Return memory that holds the argument as the kernel reads it: a number, or an address."""
        what, dtype = f"{self.name}: {self.parameters[index]}", self._dtypes[index]
        if not self._is_array[index]:
            if not isinstance(value, np.generic) or value.dtype != dtype:
                got = value.dtype if isinstance(value, np.generic) else type(value).__name__
                raise TypeError(f"{what} must be numpy.{dtype}, got {got}; CuPy passes scalars as they are")
            return np.array([value])
        if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16" and dtype == np.uint16:
            value = value.view(np.uint16)
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{what} must be an array of {dtype}, got {got}")
        if not value.flags.c_contiguous:
            raise TypeError(f"{what} of shape {value.shape} must be C-contiguous: a kernel sees no strides")
        if index in self.writes and not value.flags.writeable:
            raise TypeError(f"{what} of shape {value.shape} is written to, but is read-only")
        return np.array([value.ctypes.data], np.uint64)


def _parameter_names(text: str) -> list[str]:
    names = [re.findall(r"\w+", parameter) for parameter in text.split(",")]
    return [words[-1] for words in names if words]
