"""Run a Python script or module on several MPI ranks in a job of its own, with a time limit and one log a rank.

Run as a script this file is the wrapper that mpirun starts on each rank: it sends the rank's output to its own files.
"""

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parent.parent
NO_MPIRUN = 'no mpirun found: pip install "owt_mpi[mpich]", or load your cluster\'s MPI'
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
OPEN_MPI_ENV = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
}


@dataclass(frozen=True)
class Result:
    """How a job ended. `stdout` and `stderr` hold the ranks' output in rank order, stderr the launcher's after it."""

    returncode: int
    rank_stdout: tuple[str, ...]
    rank_stderr: tuple[str, ...]
    launcher_output: str

    @property
    def stdout(self) -> str:
        return "".join(self.rank_stdout)

    @property
    def stderr(self) -> str:
        return "".join(self.rank_stderr) + self.launcher_output

    def check(self) -> "Result":
        """Return self, or raise AssertionError with the first failing rank's log if the exit code is not 0."""
        assert self.returncode == 0, f"the job ended with code {self.returncode}\n{self.first_failure()}"
        return self

    def first_failure(self) -> str:
        """Return the log of the lowest rank with a traceback, else of the lowest that wrote to stderr."""
        told = [rank for rank, text in enumerate(self.rank_stderr) if text.strip()]
        traced = [rank for rank in told if "Traceback" in self.rank_stderr[rank]]
        if not told:
            return f"no rank wrote to stderr; the launcher:\n{self.launcher_output[-4000:]}"
        rank = (traced or told)[0]
        return f"--- rank {rank}\n{self.rank_stdout[rank][-2000:]}{self.rank_stderr[rank][-6000:]}"


def find_mpirun() -> str | None:
    """Return the mpirun of the running environment, else the one on PATH, else None."""
    own = Path(sys.prefix) / "bin" / "mpirun"
    return str(own) if own.exists() else shutil.which("mpirun")


@functools.cache
def is_open_mpi(mpirun: str) -> bool:
    """Return whether `mpirun` is Open MPI's."""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=30)
    return "Open MPI" in version.stdout


def mpi_run(num_ranks: int, args: Sequence[str], timeout_s: float = 60, env: Mapping[str, str] | None = None) -> Result:
    """Return the result of `mpirun -n num_ranks python *args`, run from the repository's root.

    `args` is a script and its arguments, or "-m" and a module. `env` is added to the environment. AssertionError if
    the job outlives `timeout_s`; no process of it is left then.
    """
    mpirun = find_mpirun()
    assert mpirun is not None, NO_MPIRUN
    job_env = {**os.environ, **ONE_THREAD, **(OPEN_MPI_ENV if is_open_mpi(mpirun) else {}), **(env or {})}
    job_env["PYTHONPATH"] = os.pathsep.join([str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as logs:
        command = [mpirun, "-n", str(num_ranks), sys.executable, __file__, logs, *args]
        with subprocess.Popen(
            command,
            cwd=REPO_ROOT,
            env=job_env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as job:
            try:
                launcher_output, _ = job.communicate(timeout=timeout_s)
            except BaseException as error:
                kill_tree(job.pid)
                launcher_output, _ = job.communicate()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                result = _collect(job.returncode, Path(logs), num_ranks, launcher_output)
                raise AssertionError(f"hangs after {timeout_s} s: {args}\n{result.first_failure()}") from None
        return _collect(job.returncode, Path(logs), num_ranks, launcher_output)


def descendants(pid: int) -> list[int]:
    """Return the process ids of all children of `pid`, theirs included."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def ends(pid: int, limit_s: float) -> bool:
    """Return whether the process is gone, or goes within `limit_s`."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    watch = select.poll()  # select() takes no descriptor above 1023
    watch.register(process, select.POLLIN)
    ended = watch.poll(limit_s * 1000)
    os.close(process)
    return bool(ended)


def until(condition: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> None:
    """Return when `condition` holds; AssertionError with what `what` returns if it does not within `limit_s`."""
    end, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what()}"
        pause.wait(0.1)


def kill_tree(pid: int) -> None:
    """Kill `pid` and all its descendants: launchers put the ranks into process groups of their own."""
    for each in [pid, *descendants(pid)]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _collect(returncode: int, logs: Path, num_ranks: int, launcher_output: str) -> Result:
    def read(kind: str) -> tuple[str, ...]:
        paths = [logs / f"{rank}.{kind}" for rank in range(num_ranks)]
        return tuple(path.read_text(errors="replace") if path.exists() else "" for path in paths)

    return Result(returncode, read("out"), read("err"), launcher_output)


def _run_rank(logs: str, args: list[str]) -> None:
    from owt_mpi.comm.launcher import launcher_rank

    for fd, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{logs}/{launcher_rank()}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    os.execv(sys.executable, [sys.executable, *args])


if __name__ == "__main__":
    _run_rank(sys.argv[1], sys.argv[2:])
