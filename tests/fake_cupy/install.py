"""Putting the stand-in where `import cupy` finds it, and taking it away again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.fake_cupy import blocks, device, engine, memory
from tests.fake_cupy.functions import FUNCTIONS
from tests.fake_cupy.ndarray import ndarray
from tests.fake_cupy.raw_module import RawKernel, RawModule

VERSION = "14.2.0"  # of the CuPy that names.txt is of


RUNTIME = {
    "getDeviceCount": device.num_devices,
    "getDeviceProperties": lambda number: {
        "name": b"Pretended GPU",
        "totalGlobalMem": blocks.TOTAL_BYTES,
        "uuid": bytes([number + 1]),
    },
    "runtimeGetVersion": lambda: device.RUNTIME_VERSION,
    "driverGetVersion": lambda: device.Machine.driver,
    "CUDARuntimeError": blocks.CUDARuntimeError,
}
CUDA = {
    "Stream": engine.Stream,
    "Event": engine.Event,
    "Graph": engine.Graph,
    "Device": device.Device,
    "MemoryPool": memory.MemoryPool,
    "PinnedMemoryPointer": memory.PinnedMemoryPointer,
    "using_allocator": memory.using_allocator,
    "alloc_pinned_memory": memory.alloc_pinned_memory,
    "get_current_stream": engine.get_current_stream,
    "get_device_id": device.get_device_id,
    "get_cublas_handle": device.get_cublas_handle,
    "is_available": device.is_available,
    "nvrtc": SimpleNamespace(getVersion=device.need_library),
    "memory": SimpleNamespace(OutOfMemoryError=memory.OutOfMemoryError),
}
COMPUTE_TYPES: dict[str, str] = {}  # what products of each dtype are made in


def _set_compute_type(dtype: Any, compute_type: str) -> None:
    COMPUTE_TYPES[np.dtype(dtype).name] = compute_type


# private, and in 14.2 as here: CUPY_TF32 is read once a process
_CORE = SimpleNamespace(
    set_compute_type=_set_compute_type,
    _routines_linalg=SimpleNamespace(COMPUTE_TYPE_DEFAULT="default", COMPUTE_TYPE_TF32="tf32"),
)
CUPY = {
    "ndarray": ndarray,
    "RawModule": RawModule,
    "RawKernel": RawKernel,
    "get_default_memory_pool": memory.get_default_memory_pool,
    **FUNCTIONS,
}


def _modules() -> dict[str, ModuleType]:
    """Return the modules by the names under which they are imported."""
    modules = {}
    for name, members in (("cupy", CUPY), ("cupy.cuda", CUDA), ("cupy.cuda.runtime", RUNTIME)):
        modules[name] = ModuleType(name, "The stand-in for CuPy.")
        vars(modules[name]).update(members)
    # CuPy loads it when it is first asked for, so that dir() does not have the name
    modules["cupy.cuda"].cublas = SimpleNamespace(setMathMode=device.set_math_mode)  # type: ignore[attr-defined]
    modules["cupy"].cuda = modules["cupy.cuda"]  # type: ignore[attr-defined]
    modules["cupy.cuda"].runtime = modules["cupy.cuda.runtime"]  # type: ignore[attr-defined]
    modules["cupy"]._core = _CORE  # type: ignore[attr-defined]
    modules["cupy"].__version__ = VERSION  # type: ignore[attr-defined]
    return modules


_stand_in = _modules()


@contextmanager
def stand_in() -> Iterator[ModuleType]:
    """Let `import cupy` give the stand-in, which is yielded, and `import cudnn` fail, in all threads."""
    assert sys.modules.get("cupy") is not _stand_in["cupy"], "it is there already"
    taken = [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx", "cudnn")]
    outside = {name: sys.modules.pop(name) for name in taken}
    sys.modules.update(_stand_in)
    sys.modules["cudnn"] = None  # type: ignore[assignment] - it must not be given addresses of the host's memory
    blocks.RACES.clear()
    memory.new_default_pool()
    try:
        yield _stand_in["cupy"]
    finally:
        for name in (*_stand_in, "cudnn"):
            del sys.modules[name]
        sys.modules.update(outside)
        engine.reset_thread()
        device.restore_machine()
