"""How a command gets its ranks: MPI's, or threads of this process."""

from collections.abc import Callable

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.placement import ranks_sharing_cores
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks


def on_ranks(virtual_ranks: int, run: Callable[[Communicator, int], object]) -> None:
    """Call run(world, how many ranks share this rank's cores) on every rank: on `virtual_ranks`, or if 0 on MPI's."""
    if virtual_ranks:
        run_ranks(virtual_ranks, lambda comm: run(comm, virtual_ranks))
        return
    from owt_mpi.comm.mpi import world  # MPI starts here, not where --help or virtual ranks are all that is asked

    comm: Communicator = world()
    run(comm if comm.size > 1 else SerialCommunicator(), ranks_sharing_cores(comm))
