"""Tests of this folder on the stand-in for CuPy, so that they are right when a GPU first runs them."""

from collections.abc import Iterator

import pytest

from owt_mpi.backends.cuda import CudaBackend
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES
from tests.gpu.test_backend import (
    test_arrays_of_more_numbers_than_an_int_counts,
    test_one_thread_may_prepare_images_and_compute_on_them,
)
from tests.gpu.test_memory import test_a_small_net_takes_what_is_forecast
from tests.gpu.test_precision import (
    test_every_operation_conforms,
    test_float32_is_float32_after_tf32,
    test_two_ranks_train_nearly_the_network_of_the_reference,
)
from tests.gpu.test_transports import test_threads_exchange_through_pinned_memory

__all__ = [
    "test_a_small_net_takes_what_is_forecast",
    "test_arrays_of_more_numbers_than_an_int_counts",
    "test_every_operation_conforms",
    "test_float32_is_float32_after_tf32",
    "test_one_thread_may_prepare_images_and_compute_on_them",
    "test_threads_exchange_through_pinned_memory",
    "test_two_ranks_train_nearly_the_network_of_the_reference",
]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr("tests.gpu.test_backend.MANY", 2**21)


@pytest.fixture
def gpu() -> Iterator[CudaBackend]:
    """The stand-in's, and no race when a test ends."""
    with cuda_backend() as backend:
        yield backend
        assert RACES == []
