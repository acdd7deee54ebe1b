"""One suite for every communicator that needs no launcher; test_mpi.py runs the same checks under mpirun."""

from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.comm.base import Array, Communicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from tests.comm.checks import CHECKS, assert_adjoint, values

Check = Callable[[Communicator], None]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_serial(check: Check) -> None:
    check(SerialCommunicator())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_threads(check: Check, size: int) -> None:
    run_ranks(size, check)


def test_a_slice_in_place_of_the_reduce_scatter_fails_the_adjoint_check() -> None:
    def gather(comm: Communicator, x: Array) -> Array:
        return comm.start_all_gather(x).wait()

    def take_own_slice(comm: Communicator, y: Array) -> Array:
        return np.split(y, comm.size)[comm.rank]

    def check(comm: Communicator) -> None:
        x, y = values((2, 3), comm.rank, np.float64), values((2 * comm.size, 3), comm.rank, np.float64, salt=1)
        assert_adjoint(comm, gather, take_own_slice, x, y)

    run_ranks(1, check)  # one rank does not show it
    with pytest.raises(AssertionError, match="not equal"):
        run_ranks(2, check)
