"""What the benchmarks run on, and how they start ranks there."""

import sys
from collections.abc import Mapping

from benchmarks.contestant import Command
from owt_mpi.backends.processor import processor_name
from owt_mpi.backends.threads import usable_cores
from tests.mpi_run import NO_MPIRUN, OPEN_MPI_ENV, find_mpirun, is_open_mpi


def machine() -> str:
    """Return the processor's name and how many of its cores this command may use."""
    return f"{processor_name()}, {usable_cores()} cores"


def under_mpirun(command: list[str], env: Mapping[str, str], num_ranks: int) -> Command:
    """Return what starts `command` on `num_ranks` ranks. Ends the benchmark, with a message, where no mpirun is."""
    mpirun = find_mpirun()
    if mpirun is None:
        sys.exit(f"error: {NO_MPIRUN}")
    return [mpirun, "-n", str(num_ranks), *command], {**env, **(OPEN_MPI_ENV if is_open_mpi(mpirun) else {})}
