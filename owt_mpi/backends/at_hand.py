"""What a backend's device and libraries are called, and the ways there are to compute its convolutions."""

from types import ModuleType

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_device import CudaDevice
from owt_mpi.backends.cuda_finding import NoGpuError, load_cupy
from owt_mpi.backends.cudnn import find_cudnn
from owt_mpi.backends.onednn_operations import OneDnnOperations
from owt_mpi.backends.processor import processor_name
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.threads import usable_cores


def device_name(backend: Backend) -> str:
    """Return the GPU's name as its driver says it, or the processor's."""
    if isinstance(backend, CudaBackend):
        return backend.device_name
    return f"{processor_name()}, {usable_cores()} cores"


def driver(backend: Backend) -> str:
    """Return the newest CUDA that the GPU's driver knows and the CUDA that CuPy runs on, "none" on the host."""
    if not isinstance(backend, CudaBackend):
        return "none"
    return _cuda_versions(backend.xp)


def gpus() -> dict[str, str]:
    """Return what CuPy sees: its version and CUDA's, each GPU, cuDNN; or why there is nothing to be seen."""
    try:
        cupy = load_cupy()
    except NoGpuError as error:
        return {"CuPy": str(error)}
    found = {"CuPy": f"{cupy.__version__}; driver {_cuda_versions(cupy)}"}
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        facts = CudaDevice(cupy, number).facts()
        size = f"{facts.total_bytes / 1e9:,.1f} GB"
        found[f"GPU {number}"] = f"{facts.name}, compute capability {facts.compute_capability}, {size}"
    return {**found, "cuDNN": find_cudnn() or "can be used"}


def _cuda_versions(cupy: ModuleType) -> str:
    """Return the newest CUDA that the driver knows, and the one that CuPy runs on."""
    versions = (cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion())
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
    if isinstance(backend, OneDnnOperations):
        return {"oneDNN": backend, products: ReferenceBackend()}
    return {products: backend}
