"""The loader's batches on a GPU: the bits that the host gets, made and sent while others are computed on."""

import pytest

from owt_mpi.backends.cuda import CudaBackend
from tests.backends.test_cuda_pixels import test_a_loader_gives_the_gpu_the_bits_that_it_gives_the_host

__all__ = ["test_a_loader_gives_the_gpu_the_bits_that_it_gives_the_host"]

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda(gpu) -> CudaBackend:
    """What that test computes on."""
    return gpu
