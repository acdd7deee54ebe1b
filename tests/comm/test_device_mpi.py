"""Device arrays over MPI itself: staged through the host, and given to the library as they are."""

from collections.abc import Callable

import pytest

from tests.comm.checks import CHECKS
from tests.mpi_run import Result


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("transport", ["staged", "mpi"])
def test_it_is_a_communicator_of_device_arrays(mpirun: Callable[..., Result], transport: str, num_ranks: int) -> None:
    result = mpirun(num_ranks, ["-m", "tests.comm.run_device_checks", transport]).check()
    for stdout in result.rank_stdout:
        assert set(stdout.split()) == {check.__name__ for check in CHECKS}


def test_mpi_that_is_called_before_the_work_is_done_is_a_recorded_race(mpirun: Callable[..., Result]) -> None:
    result = mpirun(2, ["-m", "tests.comm.run_device_checks", "mpi-hasty"])
    assert result.returncode != 0
    assert "1 kind of race recorded: a reader of __cuda_array_interface__ touches memory" in result.stdout
