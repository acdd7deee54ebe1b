"""RawModule: kernels from their .cu source, run on the CPU (tests/cuda_cpu) when their stream gets to them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.cuda_cpu import CpuModule
from tests.fake_cupy.device import check_driver
from tests.fake_cupy.ndarray import enqueue, ndarray, unwrap

MAX_SHARED_BYTES = 48 << 10  # what every device gives a block without being asked


class RawModule:
    """cupy.RawModule. As in CuPy, the source is compiled when a kernel is first asked for."""

    _compiled: dict[tuple[str, tuple[str, ...]], CpuModule] = {}  # noqa: RUF012 - as CuPy's cache, one a process

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        self._source = code, options

    def get_function(self, name: str) -> "RawKernel":
        check_driver()
        if self._source not in self._compiled:
            self._compiled[self._source] = CpuModule(*self._source)
        return RawKernel(self._compiled[self._source].get_function(name))


class RawKernel:
    """What RawModule.get_function returns: called with a grid, a block and the arguments, it returns at once."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    @property
    def name(self) -> str:
        return str(self._kernel.name)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Raise TypeError for arguments that CuPy would pack as something else than the kernel reads."""
        assert shared_mem <= MAX_SHARED_BYTES, f"{self.name}: {shared_mem} bytes of shared memory"
        for i, argument in enumerate(args):
            if isinstance(argument, np.ndarray):
                raise TypeError(f"Unsupported type {type(argument)}")
            if not isinstance(argument, ndarray | np.generic):
                raise TypeError(
                    f"{self.name}: argument {i} is a {type(argument).__name__}, which CuPy packs as 8 bytes whatever "
                    "the kernel reads; pass a NumPy scalar of the parameter's type"
                )
        _, raw = unwrap(args)
        self._kernel.check(grid, block, raw)
        reads = [args[i]._use for i in self._kernel.reads]
        writes = [args[i]._use for i in self._kernel.writes]
        enqueue(lambda: self._kernel(grid, block, raw), reads, writes)
