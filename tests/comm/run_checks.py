"""All checks of one MPI communicator, to be run under mpirun."""

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.placement import local_rank, ranks_on_node
from tests.comm.checks import CHECKS, values


def check_messages_that_mpi_cannot_count_are_refused(comm: Communicator) -> None:
    with pytest.raises(ValueError, match="MPI counts to 2147483647; send it in parts"):
        comm.start_all_gather(np.empty(2**31 // comm.size, np.uint8))  # never touched, so it takes no memory


def check_overlapping_x_and_out_are_refused(comm: Communicator) -> None:
    x = np.ones(6)
    with pytest.raises(ValueError, match="overlap"):
        comm.start_all_reduce(x[:4], x[2:])
    view = x[:]
    assert comm.start_all_reduce(x, view).wait() is view
    np.testing.assert_array_equal(x, comm.size)


def check_scratch_serves_messages_of_changing_size_and_dtype(comm: Communicator) -> None:
    pendings = []
    for length in (1, 7, 3):
        for dtype in (np.float64, np.uint8):
            x = values((2, length * comm.size, 3), comm.rank, dtype)
            pendings.append((comm.start_all_to_all(x, 1, 2), length, dtype))
    for pending, length, dtype in pendings:
        others = [values((2, length * comm.size, 3), rank, dtype) for rank in range(comm.size)]
        own = slice(comm.rank * length, (comm.rank + 1) * length)
        np.testing.assert_array_equal(pending.wait(), np.concatenate([x[:, own] for x in others], axis=2))


def check_local_ranks_count_the_ranks_of_the_node(comm: Communicator) -> None:
    numbers = comm.all_gather_object(local_rank(comm))
    assert sorted(numbers) == list(range(comm.size)), numbers  # not in rank order with every launcher
    for environ in ({}, {"MPI_LOCALRANKID": "1"}, {"SLURM_PROCID": str(comm.rank)}):  # absent or wrong: ask MPI
        assert (local_rank(comm, environ), ranks_on_node(comm, environ)) == (comm.rank, comm.size), environ
    backwards = str(comm.size - 1 - comm.rank)
    assert local_rank(comm, {"OMPI_COMM_WORLD_LOCAL_RANK": backwards}) == int(backwards)
    assert local_rank(comm, {"SLURM_LOCALID": backwards, "SLURM_PROCID": "99"}) == comm.rank


def run_all() -> int:
    comm = world()
    own = [check for name, check in globals().items() if name.startswith("check_")]
    for check in (*CHECKS, *own):
        check(comm.dup(check.__name__))
        print(check.__name__)
    assert world() is comm
    return 0


if __name__ == "__main__":
    run_command(run_all)
