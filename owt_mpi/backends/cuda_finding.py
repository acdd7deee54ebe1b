"""Which GPU a rank computes on, or why there is none: the messages that people see first."""

from types import ModuleType

from owt_mpi.backends.cuda_device import CudaDevice

_GET_CUPY = "get it with pip install 'owt_mpi[gpu]'"
_LOOK = "see whether nvidia-smi lists one, what CUDA_VISIBLE_DEVICES says, and whether the batch job asked for one"


class NoGpuError(RuntimeError):
    """There is no GPU for CuPy to use: the `reason`, and in the message the way out too."""

    def __init__(self, reason: str, way_out: str) -> None:
        super().__init__(f"{reason}; {way_out}")
        self.reason = reason


def load_cupy() -> ModuleType:
    """Return the cupy module. NoGpuError if it is not installed or sees no GPU."""
    try:
        import cupy
    except ImportError as error:
        reason = f"CuPy does not load: {error}" if getattr(error, "name", None) != "cupy" else "CuPy is not installed"
        raise NoGpuError(reason, _GET_CUPY) from error
    if not cupy.cuda.is_available():
        raise _no_gpu(cupy)
    found: ModuleType = cupy
    return found


def _no_gpu(cupy: ModuleType) -> NoGpuError:
    """Return why CuPy finds no GPU: no driver, one that is too old, or what CUDA says."""
    runtime = cupy.cuda.runtime
    known, needed = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
    if known == 0:
        return NoGpuError(f"CuPy {cupy.__version__} finds no GPU, as there is no NVIDIA driver", _LOOK)
    if known // 1000 < needed // 1000:  # within a major version an older driver will do
        return NoGpuError(
            f"the NVIDIA driver is for CUDA up to {_version(known)} only, and CuPy {cupy.__version__} runs on CUDA "
            f"{_version(needed)}",
            f"update the driver to one for CUDA {needed // 1000}, which nvidia-smi then shows",
        )
    try:
        said = f"{runtime.getDeviceCount()} devices"
    except runtime.CUDARuntimeError as error:
        said = str(error)
    return NoGpuError(f"CuPy {cupy.__version__} finds no GPU ({said})", _LOOK)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def choose_device(local_rank: int, num_devices: int) -> int:
    """Return which of the `num_devices` GPUs that this process sees is for the rank numbered `local_rank` on its node.

    A launcher that gives each rank a GPU of its own shows it that one alone, as device 0. That ranks which all see
    one do not share it is for comm.devices to check. ValueError if there are fewer GPUs than ranks.
    """
    if num_devices == 1:
        return 0
    if local_rank >= num_devices:
        raise ValueError(
            f"{num_devices} GPUs are visible, and none is left for rank {local_rank} of its node (they count from 0); "
            f"start at most {num_devices} ranks a node, ask for more GPUs, or choose --backend onednn"
        )
    return local_rank


def open_device(cupy: ModuleType, local_rank: int) -> CudaDevice:
    """Return the GPU for the rank numbered `local_rank` on its node. ValueError if there are too few.

    NoGpuError if it cannot be used, or if a library is missing that CuPy loads when it is first needed.
    """
    number = choose_device(local_rank, int(cupy.cuda.runtime.getDeviceCount()))
    try:
        cupy.cuda.nvrtc.getVersion()
        return CudaDevice(cupy, number)  # which loads cuBLAS
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise NoGpuError(f"GPU {number} cannot be used ({error})", "see whether another process has it") from error
    except (ImportError, OSError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise NoGpuError(
            f"CuPy lacks a library of CUDA {_version(int(cupy.cuda.runtime.runtimeGetVersion()))} ({said})",
            f"load the CUDA of your cluster, or {_GET_CUPY}, which brings its libraries",
        ) from error
