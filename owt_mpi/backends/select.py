"""Choosing the backend for the device and dtype at hand, and saying why."""

import os
from typing import Any

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_finding import NoGpuError
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.memory import keep_freed_memory
from owt_mpi.backends.onednn import OneDnnBackend, OneDnnBfloat16Backend
from owt_mpi.backends.onednn_api import LIBRARY_VARIABLE
from owt_mpi.backends.precision import HALF_DTYPES, is_half
from owt_mpi.backends.reference import ReferenceBackend

CHOICES = ("auto", "cuda", "onednn", "reference")

_CUDNN_DEFAULTS = CudnnOptions()
_AVAILABLE = "choose auto, cuda, onednn or reference"
_GET_ONEDNN = (
    f"install it with pip install 'owt_mpi[cpu]' (x86-64 Linux), or let {LIBRARY_VARIABLE} name a libdnnl.so.3"
)

COMPUTES = {
    "cuda": CudaBackend.dtypes,
    "onednn": (np.dtype(np.float32), *HALF_DTYPES[1:]),
    "reference": (*ReferenceBackend.dtypes, *HALF_DTYPES),
}


def select_backend(
    choice: str,
    dtype: Any,
    local_rank: int = 0,
    cudnn: CudnnOptions = _CUDNN_DEFAULTS,
    tf32: bool = False,
    on_host: bool = False,
) -> tuple[Backend, str]:
    """Return the backend for `choice` (one of CHOICES) and one line that says what was chosen and why.

    auto is CUDA where there is a GPU and `dtype` is not float64, else oneDNN where that is installed and `dtype` is
    float32, or bfloat16 on a processor that multiplies it, else the reference. `tf32` lets CUDA multiply float32
    numbers in TF32; nothing else can. Of several GPUs the rank numbered `local_rank` on its node gets its own.
    ValueError if what was asked for cannot be had, if there are GPUs but too few, or if they are too old for the
    precision; a library that the user names in OWT_MPI_LIBDNNL counts as asked for. With `on_host` auto looks for no
    GPU. Where options `cudnn` are for nothing, without a GPU, the line says so. From now on the process keeps freed
    memory: what computes on the host, or is staged there, is made in it.
    """
    backend, reason = _select(choice, dtype, local_rank, cudnn, tf32, on_host)
    idle = backend.name != "cuda" and cudnn != _CUDNN_DEFAULTS
    return backend, f"{reason}; the options for cuDNN change nothing without a GPU" if idle else reason


def _select(
    choice: str, dtype: Any, local_rank: int, cudnn: CudnnOptions, tf32: bool, on_host: bool
) -> tuple[Backend, str]:
    wanted = np.dtype(dtype)
    _check_choice(choice, wanted, tf32)
    keep_freed_memory()
    if choice == "reference":
        return _reference(wanted), f"reference (as asked; NumPy {np.__version__}, {wanted})"
    if wanted not in COMPUTES["cuda"]:
        return _reference(wanted), f"reference (auto: only NumPy computes in {wanted})"
    why = "auto: on the host" if on_host and choice == "auto" else "as asked"
    if choice == "cuda" or (choice == "auto" and not on_host):
        try:
            gpu = CudaBackend(local_rank, cudnn, tf32)
            gpu.check_computes(wanted)
            return gpu, f"cuda ({why if choice == 'cuda' else 'auto: there is a GPU'}; {gpu.description})"
        except NoGpuError as error:
            if choice == "cuda":
                raise ValueError(f"backend 'cuda' cannot be had: {error}") from error
            if tf32:
                raise ValueError(f"--precision tf32 needs a GPU, but {error}; or use --precision fp32") from error
            why = f"auto: no CUDA, as {error.reason}"
    return _select_on_host(choice, wanted, why)


def _select_on_host(choice: str, wanted: np.dtype[Any], why: str) -> tuple[Backend, str]:
    """Return oneDNN, or the reference, where there is no GPU for the reason `why`."""
    if wanted not in COMPUTES["onednn"]:
        return _reference(wanted), f"reference ({why}, and of CPU backends only NumPy computes in {wanted})"
    try:
        backend = OneDnnBackend()
    except OSError as error:
        if choice == "onednn" or os.environ.get(LIBRARY_VARIABLE):
            raise ValueError(f"backend 'onednn' does not load: {error}; {_GET_ONEDNN}") from error
        return _reference(wanted), f"reference (auto: slow, as oneDNN does not load: {error}; {_GET_ONEDNN})"
    library = backend.library
    if is_half(wanted) and not library.multiplies_bfloat16:
        lacking = f"this processor ({library.isa}) does not multiply bfloat16 numbers"
        if choice == "onednn":
            raise ValueError(f"backend 'onednn' cannot compute in bfloat16: {lacking}; use --precision fp32")
        return _reference(wanted), f"reference ({why}; slow, as {lacking}; --precision fp32 is faster)"
    chosen = OneDnnBfloat16Backend(backend, wanted) if is_half(wanted) else backend
    return chosen, f"onednn ({why}; libdnnl {library.version} from {library.path}, {library.isa})"


def _reference(dtype: np.dtype[Any]) -> Backend:
    """Return what computes in `dtype` in NumPy."""
    return HalfBackend(ReferenceBackend()) if is_half(dtype) else ReferenceBackend()


def _check_choice(choice: str, wanted: np.dtype[Any], tf32: bool) -> None:
    """Raise ValueError if no machine could fulfil what is asked for."""
    if choice not in CHOICES:
        raise ValueError(f"backend {choice!r} is unknown; {_AVAILABLE}")
    if wanted not in ReferenceBackend.dtypes and not is_half(wanted):
        raise ValueError(f"dtype {wanted} is not computed by any backend; use float32, float64 or --precision")
    if tf32 and choice in ("onednn", "reference"):
        raise ValueError(
            f"backend {choice!r} has no TF32, which GPUs compute in; use --precision fp32, or --backend cuda"
        )
    if choice != "auto" and wanted not in COMPUTES[choice]:
        names = ", ".join(map(str, COMPUTES[choice]))
        others = [f"{name!r}" for name, dtypes in COMPUTES.items() if wanted in dtypes]
        raise ValueError(
            f"backend {choice!r} computes in {names}, not {wanted}; use float32, or backend {' or '.join(others)}"
        )
