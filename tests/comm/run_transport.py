"""What is found of MPI and chosen for device arrays, on the stand-in for CuPy, to be run under mpirun."""

import numpy as np

from owt_mpi.comm.gpu_aware import find_support
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.transport import open_transport
from owt_mpi.parallel_options import ParallelOptions
from tests.comm.device_backend import DeviceBackend
from tests.fake_cupy import RACES, stand_in


def run_all() -> int:
    comm = world()
    with stand_in() as cupy:
        support = find_support(comm, comm, cupy, 0)
        print(f"support: {support.is_there} {support.reason}")
        transport = open_transport(comm, DeviceBackend(cupy, comm.rank), ParallelOptions())
        print(f"transport: {transport.description}")
        total = transport.comm.dup("trunk").start_all_reduce(cupy.asarray(np.full(3, comm.rank + 1.0)) * 1).wait()
        print(f"sum: {total.get()[2]} races: {len(RACES)}")
    return 0


if __name__ == "__main__":
    run_command(run_all)
