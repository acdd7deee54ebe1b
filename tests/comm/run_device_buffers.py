"""Arrays of a device under MPI, to be run under mpirun: memory that only __cuda_array_interface__ shows, and copies."""

import numpy as np

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.parallel.layout import Plan
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES
from tests.tiny import largest_difference, train_tiny, train_tiny_on


def check_mpi_takes_device_memory_that_is_idle(comm: Communicator, backend: CudaBackend) -> None:
    from mpi4py import MPI

    sums = 2 * backend.from_host(np.arange(6, dtype=np.float32) + comm.rank)
    backend.synchronize()
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, sums)
    expected = 2 * sum(np.arange(6) + rank for rank in range(comm.size))
    np.testing.assert_array_equal(backend.to_host(sums), expected)


def check_device_memory_that_is_not_idle_is_noticed(comm: Communicator, backend: CudaBackend) -> None:
    """mpi4py swallows the exception that the array raises, and says that it is no buffer: hence the record."""
    from mpi4py import MPI

    x = 2 * backend.from_host(np.ones(6, np.float32))
    try:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x)
    except Exception as error:
        print(f"refused by a {type(error).__name__}")
    else:
        raise AssertionError("memory was sent while work on it may still run")
    assert RACES == ["a reader of __cuda_array_interface__ touches memory on which work may still run: synchronise its "
                     "stream first"], RACES  # fmt: skip
    RACES.clear()


def check_ranks_train_on_devices(comm: Communicator, backend: CudaBackend) -> None:
    expected, _ = train_tiny_on(Plan(1), dtype="float32", num_steps=3)
    for scheme in ("b", "d"):
        plan = Plan(comm.size, scheme)
        parameters, _ = train_tiny(comm.dup(scheme), plan, dtype="float32", num_steps=3, backend=backend)
        assert largest_difference(parameters, expected) < 2e-6
    assert RACES == []


def run_all() -> int:
    comm = world()
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            with cuda_backend() as backend:
                check(comm, backend)
            print(name)
    return 0


if __name__ == "__main__":
    run_command(run_all)
