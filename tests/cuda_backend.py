"""The GPU backend on the stand-in for CuPy: for tests on machines without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from owt_mpi.backends.cuda import CudaBackend
from tests.cuda_cpu import why_unavailable
from tests.fake_cupy import stand_in


@contextmanager
def cuda_backend() -> Iterator[CudaBackend]:
    """Yield a new backend on the stand-in, or skip the test where kernels cannot be compiled for the CPU."""
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))
    with stand_in():
        yield CudaBackend()
