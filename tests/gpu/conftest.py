"""A real GPU, for the tests marked gpu: `python -m pytest -m gpu tests/gpu` on a machine that has one."""

import functools

import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.cuda_finding import NoGpuError


@functools.cache
def _without_gpu() -> str | None:
    try:
        CudaBackend()
    except NoGpuError as error:
        return str(error)
    return None


@pytest.fixture
def gpu() -> CudaBackend:
    """A new backend on the first GPU; without one the test is skipped."""
    reason = _without_gpu()
    if reason is not None:
        pytest.skip(reason)
    return CudaBackend()
