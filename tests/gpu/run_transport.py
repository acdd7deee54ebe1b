"""All checks of a communicator, of arrays on GPUs, over the transport that is named, to be run under mpirun."""

import sys

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.placement import local_rank
from owt_mpi.comm.transport import open_transport
from owt_mpi.parallel_options import ParallelOptions
from tests.comm.checks import CHECKS
from tests.comm.on_device import OnDevice


def run_all() -> int:
    comm = world()
    backend = CudaBackend(local_rank(comm))
    try:
        transport = open_transport(comm, backend, ParallelOptions(transport=sys.argv[1]))
    except ValueError as error:  # the same on all ranks
        print(f"cannot be had: {error}")
        return 0
    for check in CHECKS:
        check(OnDevice(transport.comm.dup(check.__name__), backend.xp))
        print(check.__name__)
    return 0


if __name__ == "__main__":
    run_command(run_all)
