"""A training whose last rank stops (SIGSTOP) where argv[1] says, run under mpirun: `stopping_rank.py WHERE OPTIONS`."""

import os
import signal
import sys
from typing import Any

from owt_mpi import train
from owt_mpi.checkpoint import saver
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.training import run

STOPPING = 1
PLACES = {
    "as it takes up a checkpoint": (run, "find_start"),
    "as it writes its part of a checkpoint": (saver, "write_parts"),
    "when it has written its part of a checkpoint": (saver, "_say"),
    "after the last exchange": (run, "rank_lines"),
}


def main() -> int:
    """Train, with the function of that place replaced on the rank that stops."""
    module, name = PLACES[sys.argv.pop(1)]

    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    if launcher_rank() == STOPPING:
        setattr(module, name, stop)
    return train.main()


if __name__ == "__main__":
    run_command(main)
