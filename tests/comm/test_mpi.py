"""The checks of every communicator under mpirun, one job for each number of ranks."""

from collections.abc import Callable

import pytest

from tests.comm.checks import CHECKS
from tests.cuda_cpu import why_unavailable
from tests.mpi_run import Result


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_mpi(mpirun: Callable[..., Result], num_ranks: int) -> None:
    result = mpirun(num_ranks, ["-m", "tests.comm.run_checks"]).check()
    for stdout in result.rank_stdout:
        assert set(stdout.split()) > {check.__name__ for check in CHECKS}


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
def test_mpi_on_arrays_of_a_device(mpirun: Callable[..., Result]) -> None:
    result = mpirun(2, ["-m", "tests.comm.run_device_buffers"]).check()
    for stdout in result.rank_stdout:
        assert "check_ranks_train_on_devices" in stdout.split()
