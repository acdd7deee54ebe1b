"""Say what images show: `python -m owt_mpi.predict CHECKPOINT IMAGE...`."""

import sys

from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit, run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.command_line import parse_options, usage_errors
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
    _refuse_ranks()
    run_prediction(options)
    return 0


def _refuse_ranks() -> None:
    """Raise CollectiveExit if several ranks were started: each would say the same."""
    if launcher_rank() is None:
        return
    from owt_mpi.comm.mpi import world

    if world().size > 1:
        raise CollectiveExit(
            USAGE_ERROR,
            f"error: predict answers on one rank, and {world().size} were started; leave out mpirun, or score many "
            "images by owt_mpi.evaluate",
        )


if __name__ == "__main__":
    run_command(main)
