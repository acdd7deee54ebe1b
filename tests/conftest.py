"""Fixtures for all tests."""

from collections.abc import Callable

import pytest

from tests.mpi_run import NO_MPIRUN, Result, find_mpirun, mpi_run


@pytest.fixture(scope="session")
def mpirun() -> Callable[..., Result]:
    """tests.mpi_run.mpi_run, where there is an mpirun."""
    if find_mpirun() is None:
        pytest.skip(NO_MPIRUN)
    return mpi_run
