"""All checks of a communicator whose sums go by way of two virtual nodes, to be run under mpirun."""

import sys

from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.node_sums import by_nodes
from tests.comm.checks import CHECKS


def run_all() -> int:
    comm = world()
    stepped = by_nodes(comm, sys.argv[1] == "sharded", f"node {comm.rank % 2}")
    for check in CHECKS:
        check(stepped.dup(check.__name__))
        print(check.__name__)
    return 0


if __name__ == "__main__":
    run_command(run_all)
