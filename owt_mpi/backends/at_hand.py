"""What a backend's device and libraries are called, and the ways there are to compute its convolutions."""

import platform
from pathlib import Path

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.threads import usable_cores

_CPUINFO = Path("/proc/cpuinfo")


def device_name(backend: Backend) -> str:
    """Return the GPU's name as its driver says it, or the processor's."""
    if isinstance(backend, CudaBackend):
        return backend.device_name
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {usable_cores()} cores"


def driver(backend: Backend) -> str:
    """Return the newest CUDA that the GPU's driver knows and the CUDA that CuPy runs on, "none" on the host."""
    if not isinstance(backend, CudaBackend):
        return "none"
    runtime = backend.xp.cuda.runtime
    versions = (runtime.driverGetVersion(), runtime.runtimeGetVersion())
    known, used = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
    return f"for CUDA up to {known}; CuPy runs on CUDA {used}"


def convolution_ways(backend: Backend, local_rank: int = 0) -> dict[str, Backend]:
    """Return backends by how they make convolutions, the given one first: the vendor's library, and products."""
    if isinstance(backend, CudaBackend):
        products = "im2col + cuBLAS"
        if backend.has_cudnn:
            return {"cuDNN": backend, products: CudaBackend(local_rank, cudnn=None, tf32=backend.tf32)}
        return {products: backend}
    products = "NumPy's products"
    if isinstance(backend, OneDnnBackend):
        return {"oneDNN": backend, products: ReferenceBackend()}
    return {products: backend}
