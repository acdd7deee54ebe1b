"""GPUs as cuDNN's heuristics see them, so that plans can be made for them on a machine that has none."""

import ctypes
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from owt_mpi.backends.cudnn_graphs import Device


@dataclass(frozen=True)
class DescribedGpu:
    """The properties that differ between GPUs; clocks in kHz, memory in bytes."""

    name: str
    compute_capability: int
    multiprocessors: int
    sm_clock: int
    memory_clock: int
    memory_bus_bits: int
    memory: int
    l2_cache: int
    shared_memory_of_a_block: int
    reserved_shared_memory: int
    threads_of_a_multiprocessor: int = 2048
    blocks_of_a_multiprocessor: int = 32

    def device(self) -> Device:
        """Return it as what plans are made for."""
        return Device(self.compute_capability, description=json.dumps(self._properties()))

    def _properties(self) -> dict[str, object]:
        """Return the fields that cudnn.create_device_properties reads, those of cudaDeviceProp under other names."""
        return {
            "cudaDeviceId": 0,
            "deviceVer": 10 * self.compute_capability,
            "driverVer": 12090,
            "deviceName": self.name,
            "totalGlobalMem": self.memory,
            "maxGridSize": [2147483647, 65535, 65535],
            "maxBlockSize": [1024, 1024, 64],
            "regsPerBlock": 65536,
            "multiProcessorCount": self.multiprocessors,
            "warpSize": 32,
            "maxSharedMemoryPerBlock": 49152,
            "maxSharedMemoryPerBlockOptin": self.shared_memory_of_a_block,
            "reservedSharedMemoryPerBlock": self.reserved_shared_memory,
            "maxRegistersPerSM": 65536,
            "maxCtasPerSM": self.blocks_of_a_multiprocessor,
            "maxThreadsPerBlock": 1024,
            "maxThreadsPerSM": self.threads_of_a_multiprocessor,
            "pciDeviceId": 0,
            "isTccDriver": 0,
            "supportCoopLaunch": 1,
            "smClockRateKHz": self.sm_clock,
            "memClockRateKHz": self.memory_clock,
            "memoryBusWidth": self.memory_bus_bits,
            "l2CacheSize": self.l2_cache,
        }


GPUS = {
    "V100": DescribedGpu("Tesla V100-SXM2-16GB", 70, 80, 1_530_000, 877_000, 4096, 16_900_000_000, 6 << 20, 98_304, 0),
    "T4": DescribedGpu("Tesla T4", 75, 40, 1_590_000, 5_001_000, 256, 15_600_000_000, 4 << 20, 65_536, 0, 1024, 16),
    "A100": DescribedGpu(
        "NVIDIA A100-SXM4-80GB", 80, 108, 1_410_000, 1_593_000, 5120, 85_000_000_000, 40 << 20, 166_912, 1024
    ),
    "H100": DescribedGpu(
        "NVIDIA H100 80GB HBM3", 90, 132, 1_980_000, 2_619_000, 5120, 85_000_000_000, 50 << 20, 232_448, 1024
    ),
}

# what libcudnn and libcublas bind to in the driver when they are loaded; none of it succeeds
_DRIVER_FUNCTIONS = (
    "cuCtxGetCurrent cuCtxGetLimit cuCtxPopCurrent cuCtxPushCurrent cuDeviceGet cuDeviceGetCount cuGetErrorName "
    "cuGetErrorString cuKernelGetAttribute cuKernelGetFunction cuKernelSetAttribute cuLaunchCooperativeKernel "
    "cuLaunchKernel cuLaunchKernelEx cuLibraryGetKernel cuLibraryLoadData cuLibraryLoadFromFile cuLibraryUnload "
    "cuLinkAddData cuLinkComplete cuLinkCreate cuLinkDestroy cuModuleGetFunction cuModuleLoadData cuModuleUnload "
    "cuOccupancyMaxPotentialClusterSize cuStreamGetCtx cuTensorMapEncodeIm2col cuTensorMapEncodeTiled"
)
_CUDA_ERROR_NO_DEVICE = 100


def load_driver_or_stand_in() -> None:
    """Load libcuda.so.1, which cuDNN links, or where there is none a library that only says that there is no device.

    To be called before cuDNN is first used, in a process that does nothing else with CUDA. Needs gcc where there is no
    driver.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        _load_stand_in()


def _load_stand_in() -> None:
    functions = [f"int {name}(void) {{ return {_CUDA_ERROR_NO_DEVICE}; }}" for name in _DRIVER_FUNCTIONS.split()]
    functions.append("int cuDriverGetVersion(int *version) { *version = 12090; return 0; }")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "driver.c", Path(folder) / "libcuda.so.1"
        source.write_text("\n".join(functions) + "\n", encoding="utf-8")
        command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
