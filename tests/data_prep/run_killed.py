"""build_shards, but a rank is killed at one of its changes of files: run_killed.py RANK MOMENT ARGUMENTS."""

import os
import signal
import sys

from data_prep.build_shards import main
from data_prep.work import WorkQueue
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.launcher import launcher_rank
from tests.data_prep.moments import watch_writes


def die_at(moment: int) -> None:
    left = moment

    def tick() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    watch_writes(tick)


def take_one_shard() -> None:
    """Leave the other shards to the rank that is killed, so that it gets as far as that."""
    take = WorkQueue.take
    taken = False

    def take_once(queue: WorkQueue) -> int | None:
        nonlocal taken
        while taken:
            queue._serve()
        taken = True
        return take(queue)

    WorkQueue.take = take_once  # type: ignore[method-assign]


if __name__ == "__main__":
    if launcher_rank() == int(sys.argv[1]):
        die_at(int(sys.argv[2]))
    else:
        take_one_shard()
    run_command(lambda: main(sys.argv[3:]))
