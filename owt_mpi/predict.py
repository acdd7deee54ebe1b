"""Say what images show: `python -m owt_mpi.predict CHECKPOINT IMAGE...`."""

import sys

from owt_mpi.comm.guard import run_command
from owt_mpi.command_line import parse_options, refuse_ranks, usage_errors
from owt_mpi.evaluation.answers import PredictOptions, run_prediction

DESCRIPTION = """Say what images show: the classes that a trained network scores highest.

Images are brought to size, cut and normalised as those of the network's validation were.

Examples:
  python -m owt_mpi.predict runs/first cat.jpg dog.png
  python -m owt_mpi.predict runs/first/checkpoints/best photos/*.jpg --views 10 --json answers.json"""


def main() -> int:
    """Parse the command line, answer, and return the exit code."""
    with usage_errors():
        options = parse_options(PredictOptions(), sys.argv[1:], "python -m owt_mpi.predict", DESCRIPTION)
        options.check()
    refuse_ranks(
        "predict answers on one rank, and {size} were started; leave out mpirun, or score many images by "
        "owt_mpi.evaluate"
    )
    run_prediction(options)
    return 0


if __name__ == "__main__":
    run_command(main)
