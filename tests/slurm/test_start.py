"""How ranks find each other when srun starts them."""

import sys

from tests.mpi_run import REPO_ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import mpi_variables

# Memory that has been used before is full of what cannot be made short.
START_LATE = """
import os
used = [[os.urandom(size) for _ in range(200)] for size in (600, 1000, 4000, 9000, 32000)]
for each in used:
    del each[::2]
from owt_mpi.comm.guard import run_command
def main():
    from owt_mpi.comm.mpi import world
    print("world of", world().size)
    return 0
run_command(main)
"""


def test_ranks_meet_however_their_memory_was_used_before(cluster: Cluster):
    """MPICH sends its address buffers whole, and SLURM's pmi2 drops the connection if they are long."""
    mpi = f"--mpi={mpi_variables()['OWT_MPI_SRUN_MPI']}"
    start = ("srun", mpi, "--nodes=2", "--ntasks-per-node=2", "--time=1", f"--chdir={REPO_ROOT}")
    assert cluster.run(*start, sys.executable, "-c", START_LATE).splitlines() == ["world of 4"] * 4
