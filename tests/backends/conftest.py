"""Backends to test: every test that takes `backend` and `dtype` runs on each backend with each dtype it computes in."""

import functools
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.onednn import OneDnnBackend, OneDnnBfloat16Backend
from owt_mpi.backends.onednn_api import find_library
from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.backends.reference import ReferenceBackend
from tests.cuda_backend import cuda_backend


@functools.cache
def onednn_backend() -> OneDnnBackend:
    """Return the one backend of this process, or skip the test where the library is not installed."""
    try:
        return OneDnnBackend(find_library())
    except FileNotFoundError as error:
        pytest.skip(f"oneDNN is not installed: {error}")


# (what opens the backend for a with-block, dtype)
CONFIGURATIONS = [
    pytest.param((lambda: nullcontext(ReferenceBackend()), np.float32), id="reference-float32"),
    pytest.param((lambda: nullcontext(ReferenceBackend()), np.float64), id="reference-float64"),
    pytest.param((lambda: nullcontext(onednn_backend()), np.float32), id="onednn-float32"),
    pytest.param((cuda_backend, np.float32), id="cuda-float32"),
]


def onednn_bfloat16_backend() -> OneDnnBfloat16Backend:
    """Return a backend, or skip the test where the library or the processor's instructions are missing."""
    if not (inner := onednn_backend()).library.multiplies_bfloat16:
        pytest.skip(f"this processor ({inner.library.isa}) does not multiply bfloat16 numbers")
    return OneDnnBfloat16Backend(inner, HALF_DTYPES[1])


HALF_CONFIGURATIONS = [
    pytest.param((open_backend, dtype), id=f"{name}-{dtype}")
    for dtype in HALF_DTYPES
    for name, open_backend in (
        ("reference", lambda: nullcontext(HalfBackend(ReferenceBackend()))),
        ("cuda", cuda_backend),
    )
]
HALF_CONFIGURATIONS += [
    pytest.param((lambda: nullcontext(onednn_bfloat16_backend()), dtype), id=f"onednn-{dtype}")
    for dtype in HALF_DTYPES[1:]
]


@pytest.fixture(params=CONFIGURATIONS + HALF_CONFIGURATIONS)
def configuration(request):
    open_backend, dtype = request.param
    with open_backend() as backend:
        yield backend, np.dtype(dtype)


@pytest.fixture
def backend(configuration) -> Backend:
    return configuration[0]


@pytest.fixture
def dtype(configuration) -> np.dtype:
    return configuration[1]


@pytest.fixture
def onednn() -> OneDnnBackend:
    return onednn_backend()


@pytest.fixture
def cuda() -> Iterator[CudaBackend]:
    """A new GPU backend on the stand-in for CuPy."""
    with cuda_backend() as backend:
        yield backend


@pytest.fixture
def restored_num_threads():
    """Put the thread counts of the BLAS and of OpenMP back after the test."""
    with ThreadpoolController().limit(limits=None):
        yield
