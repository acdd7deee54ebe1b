"""Choosing the backend for the device and dtype at hand, and saying why."""

import os
from typing import Any

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_device import NoGpuError
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.memory import keep_freed_memory
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.onednn_api import LIBRARY_VARIABLE
from owt_mpi.backends.reference import ReferenceBackend

CHOICES = ("auto", "cuda", "onednn", "reference")

_CUDNN_DEFAULTS = CudnnOptions()
_AVAILABLE = "choose auto, cuda, onednn or reference"
_GET_ONEDNN = (
    f"install it with pip install 'owt_mpi[cpu]' (x86-64 Linux), or let {LIBRARY_VARIABLE} name a libdnnl.so.3"
)


def select_backend(
    choice: str, dtype: Any, local_rank: int = 0, cudnn: CudnnOptions = _CUDNN_DEFAULTS
) -> tuple[Backend, str]:
    """Return the backend for `choice` (one of CHOICES) and one line that says what was chosen and why.

    auto is CUDA where there is a GPU and `dtype` is float32, else oneDNN where that is installed, else the reference.
    Of several GPUs the rank numbered `local_rank` on its node gets its own. ValueError if what was asked for cannot be
    had, or if there are GPUs but too few; a library that the user names in OWT_MPI_LIBDNNL counts as asked for.
    Where options `cudnn` are for nothing, without a GPU, the line says so. From now on the process keeps freed memory:
    what computes on the host, or is staged there, is made in it.
    """
    backend, reason = _select(choice, dtype, local_rank, cudnn)
    idle = backend.name != "cuda" and cudnn != _CUDNN_DEFAULTS
    return backend, f"{reason}; the options for cuDNN change nothing without a GPU" if idle else reason


def _select(choice: str, dtype: Any, local_rank: int, cudnn: CudnnOptions) -> tuple[Backend, str]:
    wanted = np.dtype(dtype)
    if choice not in CHOICES:
        raise ValueError(f"backend {choice!r} is unknown; {_AVAILABLE}")
    if wanted not in ReferenceBackend.dtypes:
        raise ValueError(f"dtype {wanted} is not computed by any backend; use float32 or float64")
    keep_freed_memory()
    if choice == "reference":
        return ReferenceBackend(), f"reference (as asked; NumPy {np.__version__}, {wanted})"
    if wanted not in OneDnnBackend.dtypes:
        if choice != "auto":
            raise ValueError(
                f"backend {choice!r} computes in float32, not {wanted}; use float32, or backend 'reference'"
            )
        return ReferenceBackend(), f"reference (auto: only NumPy computes in {wanted})"
    why = "as asked"
    if choice != "onednn":
        try:
            gpu = CudaBackend(local_rank, cudnn)
            return gpu, f"cuda ({why if choice == 'cuda' else 'auto: there is a GPU'}; {gpu.description})"
        except NoGpuError as error:
            if choice == "cuda":
                raise ValueError(f"backend 'cuda' cannot be had: {error}") from error
            why = f"auto: no CUDA, as {error.reason}"
    try:
        backend = OneDnnBackend()
    except OSError as error:
        if choice == "onednn" or os.environ.get(LIBRARY_VARIABLE):
            raise ValueError(f"backend 'onednn' does not load: {error}; {_GET_ONEDNN}") from error
        return ReferenceBackend(), f"reference (auto: slow, as oneDNN does not load: {error}; {_GET_ONEDNN})"
    library = backend.library
    return backend, f"onednn ({why}; libdnnl {library.version} from {library.path}, {library.isa})"
