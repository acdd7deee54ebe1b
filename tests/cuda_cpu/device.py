"""Just enough of a `cupy` for the launchers of our kernels: arrays with an address, and RawModule.

Launches run at once, in a chosen order of threads; tests of streams need the stand-in of tests/fake_cupy.
"""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.cuda_cpu.module import CpuModule

cached_module = functools.cache(CpuModule)


class DeviceArray:
    """An array that kernels can read and write, and nothing else can; `host` is its memory."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        self.shape, self.size, self.dtype, self.flags = host.shape, host.size, host.dtype, host.flags
        self.data = SimpleNamespace(ptr=host.ctypes.data)


def cupy_in_order(order: int) -> Any:
    """Return what may stand in sys.modules as `cupy`, whose kernels run their threads in `order`."""
    return SimpleNamespace(RawModule=functools.partial(_RawModule, order))


class _RawModule:
    def __init__(self, order: int, *, code: str, options: tuple[str, ...]) -> None:
        self._module, self._order = cached_module(code, options), order

    def get_function(self, name: str) -> Any:
        kernel = self._module.get_function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            assert not any(isinstance(arg, np.ndarray) for arg in args), f"{name} is given an array of the host"
            held = tuple(arg.host if isinstance(arg, DeviceArray) else arg for arg in args)
            kernel(grid, block, held, self._order)

        return launch
