"""How a command ends: together, or, when one rank fails, at once and on all ranks. No rank is left waiting."""

import array
import contextlib
import fcntl
import os
import socket
import stat
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.launcher import LaunchError, launcher_rank, started_by_hydra
from owt_mpi.input_file import one_line

USAGE_ERROR = 2
DATA_ERROR = 3
STOPPED = 85  # a run that somebody wished to end early: not a failure, and to be gone on with
INTERRUPTED = 130  # what a shell makes of Ctrl-C
AGREEMENT_SECONDS = 10.0  # how long ranks that end together wait for each other before one of them aborts the job
_READING_SECONDS = 2.0  # how long the launcher may take to read the message of a rank that aborts
_LOOK_SECONDS = 1.0  # between looks whether the launcher is still there

_first_failure = threading.Lock()
_have_met = threading.Event()


class CollectiveExit(SystemExit):
    """All ranks raise it alike: run_command prints `message` once and ends the job with `code`, without an abort."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process, and the whole MPI job if this rank fails. For `if __name__ == "__main__"`.

    The exit code is 0 if main returns 0 on all ranks, that of a CollectiveExit, 130 on Ctrl-C, and else that of the
    failing rank: 1 for an exception in any thread (its traceback is printed under the rank's number), or what
    sys.exit or `main` gave. An exception with an `exit_code` is for people: its message is printed, and that the code.
    A rank whose launcher is killed, and which would go on alone, ends too.
    """
    threading.excepthook = _fail_for_thread
    if launcher_rank() is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="launcher", daemon=True).start()
    try:
        code = main()
        if code == 0:
            _finalise()
    except CollectiveExit as end:
        _end_together(end.code if isinstance(end.code, int) else 1, end.message)
    except LaunchError as error:
        _end_together(USAGE_ERROR, f"error: {error}")
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except SystemExit as end:
        _fail_or_exit(end)
    except BaseException as error:
        code_for_people = getattr(error, "exit_code", None)
        if code_for_people is not None:
            fail("; ".join([f"error: {error}", *getattr(error, "__notes__", [])]), code_for_people)
        fail(traceback.format_exc(), 1)
    if code != 0:
        _fail_or_exit(SystemExit(code))
    sys.exit(0)


def agree(comm: Communicator, error: Exception | None, code: int = DATA_ERROR) -> None:
    """Raise CollectiveExit on all ranks if any gave an `error`, naming the lowest such rank. All ranks call.

    For steps that one rank may fail alone, such as opening its shards, before the ranks depend on each other. An
    error that all ranks have alike is printed without a rank, and a ValueError, which is for people, without its type.
    """
    text = None
    if error is not None:
        text = one_line(error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    failed = [(rank, each) for rank, each in enumerate(comm.all_gather_object((_host(), text))) if each[1] is not None]
    if failed:
        rank, (host, first) = failed[0]
        if len(failed) == comm.size and all(each[1] == first for _, each in failed):
            raise CollectiveExit(code, f"error: {first}") from error
        others = f" ({len(failed) - 1} more ranks failed)" if len(failed) > 1 else ""
        raise CollectiveExit(code, f"error: rank {rank} of {comm.size} on host {host}: {first}{others}") from error


def meet_at_end(comm: Communicator) -> None:
    """Return when all ranks of the job have called, as the last thing that they do together.

    A rank that then does not come to MPI_Finalize within AGREEMENT_SECONDS of the others is not waited for.
    """
    comm.barrier()
    _have_met.set()


def _end_together(code: int, message: str) -> NoReturn:
    """Print `message` on rank 0 and exit with `code`; all ranks call."""
    if launcher_rank() is not None:
        _try_to_initialise()
    world = None if _loaded_mpi() is None else _mpi().active_world()
    if world is not None and world.size > 1 and not _mpi().all_arrive_within(AGREEMENT_SECONDS):
        fail(f"{message}\n(the other ranks go on)", code)
    rank = world.rank if world is not None and world.size > 1 else launcher_rank() or 0
    if message and rank == 0:
        print(message, file=sys.stderr)
    _flush()
    _let_launcher_read()
    if code != 0 and world is not None and world.size > 1 and started_by_hydra():
        # MPICH's mpirun kills the ranks that are still exiting when the first has exited with a code, and reports
        # the kill in place of the code; an abort by one rank it reports by its code alone
        _mpi().all_arrive_within(AGREEMENT_SECONDS)
        if rank != 0:
            threading.Event().wait(AGREEMENT_SECONDS)  # for rank 0's abort
            print(message, "(said for rank 0, which has not ended the job)", file=sys.stderr, flush=True)
        _mpi().abort(code)
    _finalise()
    sys.exit(code)


def _fail_or_exit(end: SystemExit) -> NoReturn:
    """Do what the interpreter does with `end`; where other ranks may wait for this one, end them too."""
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if code == 0:
        _finalise()
        sys.exit(0)
    said = f": {end.code}" if isinstance(end.code, str) else ""
    if _who():
        fail(f"exit with code {code}{said}", code)
    sys.exit(end.code)


def _end_with(launcher: int) -> None:
    """End this rank when its parent process, the launcher's part on this host, has ended before it.

    MPICH's mpirun does not notice that, and the ranks would train on unseen, with the GPUs, beside the next job.
    """
    while os.getppid() == launcher:
        time.sleep(_LOOK_SECONDS)
    fail(f"the process that started it ({launcher}, the launcher's on this host) has ended", 1)


def _fail_for_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit:  # ends the thread alone, as ever
        return
    lines = traceback.format_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
    name = failure.thread.name if failure.thread is not None else "unknown"
    fail(f"in thread {name!r}\n{''.join(lines)}", 1)


def fail(text: str, code: int) -> NoReturn:
    """Print `text` under this rank's name and end all ranks with `code`. Of several threads that fail, one does it."""
    if not _first_failure.acquire(blocking=False):
        threading.Event().wait()
    try:
        who = _who()
        separator = "\n" if "\n" in text.strip() else " "
        _flush()
        with contextlib.suppress(OSError):
            os.write(2, (f"{who}:{separator}{text.strip()}\n" if who else f"{text.strip()}\n").encode())
        _let_launcher_read()
        _abort(code)
    finally:
        os._exit(code)  # not sys.exit: nothing at exit may wait for another rank or thread


def _let_launcher_read(files: Sequence[int] = (1, 2)) -> None:
    """Return when the launcher has read what this rank has written to stdout and stderr, or after a while.

    MPICH's forgets what it has not read when a rank aborts: without this the message was lost in 1 of 15 jobs.
    """
    if launcher_rank() is None:
        return
    end = time.monotonic() + _READING_SECONDS
    for file in files:
        with contextlib.suppress(OSError):
            unread = array.array("i", [0])
            while stat.S_ISFIFO(os.fstat(file).st_mode) and fcntl.ioctl(file, termios.FIONREAD, unread) == 0:
                if unread[0] == 0 or time.monotonic() >= end:
                    break
                time.sleep(0.001)


def _abort(code: int) -> None:
    """End all ranks of an MPI job; return if this process is in none.

    Before MPI is initialised an exit code alone does not do: the others may be in MPI_Init already, and MPICH's mpirun
    lets them wait there. So this rank joins them first, unless they do not come either.
    """
    if launcher_rank() is not None:
        joining = threading.Thread(target=_try_to_initialise, daemon=True)
        joining.start()
        joining.join(AGREEMENT_SECONDS)
    if _loaded_mpi() is not None and _mpi().active_world() is not None:
        _mpi().abort(code)


def _try_to_initialise() -> None:
    with contextlib.suppress(Exception):  # there is an error to report already
        _mpi().initialise()


def _who() -> str:
    """Return 'rank r of K on host H', or '' for a process that was started alone."""
    world = None if _loaded_mpi() is None else _mpi().active_world()
    if world is not None and world.size > 1:
        return f"rank {world.rank} of {world.size} on host {_host()}"
    rank = launcher_rank()
    return "" if rank is None else f"rank {rank} on host {_host()}"


def _finalise() -> None:
    if _loaded_mpi() is None:
        return
    world = _mpi().active_world()
    if _have_met.is_set() and world is not None and world.size > 1 and not _mpi().all_arrive_within(AGREEMENT_SECONDS):
        fail(f"all is done, but a rank has not come to its end within {AGREEMENT_SECONDS:g} s of this one", 1)
    _mpi().finalise()  # which has no limit: MPICH's waits in it for the others


def _loaded_mpi() -> ModuleType | None:
    return sys.modules.get("owt_mpi.comm.mpi")


def _mpi() -> ModuleType:
    from owt_mpi.comm import mpi

    return mpi


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _host() -> str:
    return socket.gethostname()
