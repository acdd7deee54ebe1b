"""Our kernels on a GPU: every test of tests/backends that takes `kernels`, with CuPy in the place of g++."""

import inspect
import sys

import pytest

from owt_mpi.backends.cuda_kernels import CudaKernels
from tests.backends import test_cuda_kernels, test_cuda_kernels_flat, test_cuda_kernels_rows
from tests.cuda_cpu.device import cupy_that_copies

pytestmark = pytest.mark.gpu


@pytest.fixture
def kernels(monkeypatch) -> CudaKernels:
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    monkeypatch.setitem(sys.modules, "cupy", cupy_that_copies(cupy))
    return CudaKernels()


for module in (test_cuda_kernels, test_cuda_kernels_rows, test_cuda_kernels_flat):
    for name, value in vars(module).items():
        if name.startswith("test_") and "kernels" in inspect.signature(value).parameters:
            globals()[name] = value
del name, value, module
