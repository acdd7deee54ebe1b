"""Backends to test: every test that takes `backend` and `dtype` runs on each backend with each dtype it computes in."""

import numpy as np
import pytest

from owt_mpi.backends.base import Backend
from owt_mpi.backends.reference import ReferenceBackend

CONFIGURATIONS = [
    pytest.param((ReferenceBackend, np.float32), id="reference-float32"),
    pytest.param((ReferenceBackend, np.float64), id="reference-float64"),
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
