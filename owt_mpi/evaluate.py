"""Score a trained network image by image: `mpirun -n K python -m owt_mpi.evaluate CHECKPOINT --data DIR`."""

import sys

from owt_mpi.comm.guard import run_command
from owt_mpi.comm.start import on_ranks
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
    on_ranks(options.ranks.virtual_ranks, lambda world, sharing: run_evaluation(options, world, sharing))
    return 0


if __name__ == "__main__":
    run_command(main)
