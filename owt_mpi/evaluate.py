"""Score a trained network image by image: `mpirun -n K python -m owt_mpi.evaluate CHECKPOINT --data DIR`."""

import sys

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.placement import ranks_sharing_cores
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.run import run_evaluation

DESCRIPTION = """Score a trained network image by image.

Prints loss, top-1 and top-5, the classes found worst, those taken for one another most often, and the images of the
highest loss. Every image counts once, on any number of ranks. The network and its options are the checkpoint's.

Examples:
  mpirun -n 2 python -m owt_mpi.evaluate runs/first --data shards
  mpirun -n 4 python -m owt_mpi.evaluate runs/first/checkpoints/best --views 10 --json scores.json
  python -m owt_mpi.evaluate runs/first --features fc6 --features-out fc6.h5"""


def main() -> int:
    """Parse the command line, evaluate, and return the exit code."""
    with usage_errors():
        options = parse_options(EvaluateOptions(), sys.argv[1:], "python -m owt_mpi.evaluate", DESCRIPTION)
        options.check()
    num_ranks = options.ranks.virtual_ranks
    if num_ranks:
        run_ranks(num_ranks, lambda comm: run_evaluation(options, comm, num_ranks))
        return 0
    from owt_mpi.comm.mpi import world  # MPI starts here, not where --help or virtual ranks are all that is asked

    comm: Communicator = world()
    if comm.size == 1:
        comm = SerialCommunicator()
    run_evaluation(options, comm, ranks_sharing_cores(comm))
    return 0


if __name__ == "__main__":
    run_command(main)
