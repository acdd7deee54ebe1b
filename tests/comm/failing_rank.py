"""Jobs in which a rank fails in the way that argv[1] names while the others wait for it; run under mpirun."""

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from owt_mpi.comm import guard, mpi
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import CollectiveExit, agree, meet_at_end, run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.comm.mpi import world

FAILING = 1


def raises(comm: Communicator) -> int:
    if comm.rank == FAILING:
        raise KeyError("shard 7")
    comm.barrier()
    return 0


def raises_while_its_collective_is_under_way(comm: Communicator) -> int:
    other = comm.dup("other")
    if comm.rank == FAILING:
        other.start_all_reduce(np.ones(1 << 20, np.float32))
        raise KeyError("shard 7")
    comm.barrier()
    return 0


class _BadShard(ValueError):
    exit_code = 3


def raises_what_is_for_people(comm: Communicator) -> int:
    if comm.rank == FAILING:
        raise _BadShard("shard 7 was cut; copy it again")
    comm.barrier()
    return 0


def raises_in_a_thread(comm: Communicator) -> int:
    def load() -> NoReturn:
        raise KeyError("shard 7")

    if comm.rank == FAILING:
        threading.Thread(target=load, name="loader").start()
        threading.Event().wait()
    comm.barrier()
    return 0


def calls_sys_exit(comm: Communicator) -> int:
    if comm.rank == FAILING:
        sys.exit(5)
    comm.barrier()
    return 0


def returns_a_code(comm: Communicator) -> int:
    if comm.rank == FAILING:
        return 5
    comm.barrier()
    return 0


def is_killed(comm: Communicator) -> int:
    if comm.rank == FAILING:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.barrier()
    return 0


def is_interrupted(comm: Communicator) -> int:
    if comm.rank == FAILING:
        signal.raise_signal(signal.SIGINT)
    comm.barrier()
    return 0


def fails_alone_with_a_collective_exit(comm: Communicator) -> int:
    guard.AGREEMENT_SECONDS = 0.2
    if comm.rank == FAILING:
        raise CollectiveExit(2, "error: no such preset")
    comm.barrier()
    comm.barrier()
    return 0


def all_exit(comm: Communicator) -> int:
    comm.start_all_reduce(np.ones(1000))  # nobody waits for it
    print("output before the end")
    first = os.pidfd_open(comm.all_gather_object(os.getpid())[0])
    comm.barrier()
    if comm.rank == comm.size - 1:  # is still there when the first rank has exited with the code
        atexit.register(select.select, [first], [], [])
    raise CollectiveExit(int(sys.argv[2]), "error: 'batch' must be positive")


def stops_when_all_is_done(comm: Communicator) -> int:
    guard.AGREEMENT_SECONDS = 2.0
    meet_at_end(comm)
    if comm.rank == FAILING:
        os.kill(os.getpid(), signal.SIGSTOP)
    return 0


def stops_as_all_exit(comm: Communicator) -> int:
    guard.AGREEMENT_SECONDS = 2.0
    if comm.rank == 0:  # the one that ends the job for all
        mpi.abort = lambda code: os.kill(os.getpid(), signal.SIGSTOP)  # type: ignore[assignment]
    raise CollectiveExit(int(sys.argv[2]), "error: 'batch' must be positive")


def agrees(comm: Communicator) -> int:
    error = OSError(f"cannot open shard {comm.rank}") if comm.rank >= FAILING else None
    agree(comm, None)
    agree(comm, error)
    return 0


def loses_its_launcher(comm: Communicator) -> int:
    Path(sys.argv[2], str(comm.rank)).write_text(str(os.getpid()))
    comm.barrier()
    if comm.rank == FAILING:
        os.kill(_launcher_pid(), signal.SIGTERM)
    comm.dup("never").barrier() if comm.rank != FAILING else threading.Event().wait()
    return 0


def loses_its_parent(comm: Communicator) -> int:
    Path(sys.argv[2], str(comm.rank)).write_text(str(os.getpid()))
    comm.barrier()
    if comm.rank == FAILING:
        os.kill(os.getppid(), signal.SIGKILL)
    threading.Event().wait()
    return 0


def hangs(comm: Communicator) -> int:
    Path(sys.argv[2], str(comm.rank)).write_text(str(os.getpid()))
    if comm.rank == FAILING:
        print("waits for nothing", file=sys.stderr, flush=True)
        threading.Event().wait()
    comm.barrier()
    return 0


def before_mpi_one_raises() -> int:
    if launcher_rank() == FAILING:
        raise KeyError("shard 7")
    world().barrier()
    return 0


def before_mpi_all_exit() -> int:
    raise CollectiveExit(int(sys.argv[2]), "error: 'batch' must be positive")


def _launcher_pid() -> int:
    """Return the process whose child's child ... this is and whose command line starts a job."""
    pid = os.getpid()
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if Path(arguments[0]).name in ("mpirun", "mpiexec", "prterun"):
            return pid


def run_case() -> int:
    case: Callable[..., int] = globals()[sys.argv[1]]
    return case() if sys.argv[1].startswith("before_mpi") else case(world())


if __name__ == "__main__":
    run_command(run_case)
