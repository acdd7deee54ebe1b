"""The checks of every communicator under mpirun, one job for each number of ranks."""

from collections.abc import Callable

import pytest

from tests.comm.checks import CHECKS
from tests.mpi_run import Result


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_mpi(mpirun: Callable[..., Result], num_ranks: int) -> None:
    result = mpirun(num_ranks, ["-m", "tests.comm.run_checks"]).check()
    for stdout in result.rank_stdout:
        assert set(stdout.split()) > {check.__name__ for check in CHECKS}
