"""All checks of a communicator, of device arrays over MPI, to be run under mpirun: `staged`, `mpi` or `mpi-hasty`.

The device is the stand-in for CuPy: its memory is the host's, but its arrays offer `__cuda_array_interface__` alone, so
that with `mpi` a library takes them as it takes a GPU's.
"""

import sys

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.device_arrays import DeviceCommunicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.staged import DirectLane, StagedLane, Staging
from tests.comm.checks import CHECKS, values
from tests.comm.on_device import OnDevice
from tests.fake_cupy import RACES, stand_in


def run_all() -> int:
    transport = sys.argv[1]
    comm = world()
    with stand_in() as cupy:
        staging = Staging(cupy, 0, chunk_bytes=40)

        def make_lane(inner: Communicator) -> StagedLane | DirectLane:
            return StagedLane(inner, staging) if transport == "staged" else DirectLane(inner, cupy, 0)

        device_comm = DeviceCommunicator(comm, cupy, make_lane)
        if transport == "mpi-hasty":
            cupy.cuda.Event.synchronize = lambda event: None
            try:
                device_comm.start_all_reduce(cupy.asarray(np.ones(3)) + 1).wait()
            except Exception as error:
                print(f"{type(error).__name__}; {len(set(RACES))} kind of race recorded: {RACES[0]}", flush=True)
            return 1
        for check in CHECKS:
            check(OnDevice(device_comm.dup(check.__name__), cupy))
            print(check.__name__)
        uneven = [5 * rank for rank in range(comm.size)]  # the first gives nothing
        rows = device_comm.start_all_gather_rows(cupy.asarray(values((uneven[comm.rank], 3), comm.rank)), uneven)
        expected = np.concatenate([values((uneven[rank], 3), rank) for rank in range(comm.size)])
        np.testing.assert_array_equal(rows.wait().get(), expected)
    assert RACES == [], RACES
    return 0


if __name__ == "__main__":
    run_command(run_all)
