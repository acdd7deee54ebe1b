"""Backends to test: every test that takes `backend` and `dtype` runs on each backend with each dtype it computes in."""

import functools

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from owt_mpi.backends.base import Backend
from owt_mpi.backends.onednn import OneDnnBackend
from owt_mpi.backends.onednn_api import find_library
from owt_mpi.backends.reference import ReferenceBackend


@functools.cache
def onednn_backend() -> OneDnnBackend:
    """Return the one backend of this process, or skip the test where the library is not installed."""
    try:
        return OneDnnBackend(find_library())
    except FileNotFoundError as error:
        pytest.skip(f"oneDNN is not installed: {error}")


CONFIGURATIONS = [
    pytest.param((ReferenceBackend, np.float32), id="reference-float32"),
    pytest.param((ReferenceBackend, np.float64), id="reference-float64"),
    pytest.param((onednn_backend, np.float32), id="onednn-float32"),
]


@pytest.fixture(params=CONFIGURATIONS)
def configuration(request):
    make, dtype = request.param
    return make(), np.dtype(dtype)


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
def restored_num_threads():
    """Put the thread counts of the BLAS and of OpenMP back after the test."""
    with ThreadpoolController().limit(limits=None):
        yield
