"""Just enough of a `cupy` for the launchers of our kernels: arrays with an address, and RawModule.

Arrays live on the host whatever runs the kernels, so that a test is written once: the CPU, at once and in a chosen
order of threads, or a GPU, which each launch copies its arrays to and from.
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


def cupy_that_copies(cupy: Any) -> Any:
    """Return what may stand in sys.modules in the place of the real `cupy`, and takes DeviceArrays."""
    return SimpleNamespace(RawModule=functools.partial(_CopyingModule, cupy))


class _CopyingModule:
    def __init__(self, cupy: Any, *, code: str, options: tuple[str, ...]) -> None:
        self._cupy, self._module = cupy, cupy.RawModule(code=code, options=options)

    def get_function(self, name: str) -> Any:
        kernel = self._module.get_function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            hosts = {id(arg.host): arg.host for arg in args if isinstance(arg, DeviceArray)}
            copies = {key: self._cupy.asarray(host) for key, host in hosts.items()}  # one where input is output
            kernel(grid, block, tuple(copies[id(arg.host)] if isinstance(arg, DeviceArray) else arg for arg in args))
            for key, host in hosts.items():
                host[...] = self._cupy.asnumpy(copies[key])

        return launch
