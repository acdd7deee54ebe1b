"""Contestants: groups of worker processes that are kept alive and take a step each time they are told to.

A worker calls `serve`; the benchmark holds a `Contestant` for each group. They speak lines over a local socket, where
waiting costs no processor time: whoever waits must not disturb whoever is measured.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tests.mpi_run import kill_tree

REPO_ROOT = Path(__file__).resolve().parent.parent
LONGEST_STEP_SECONDS = 600.0
# after a step OpenBLAS keeps its threads spinning for some 30 ms: the next contestant waits for that
PAUSE_SECONDS = 0.1

Command = tuple[Sequence[str], Mapping[str, str]]  # the command line, and what to add to the environment


class Taker(Protocol):
    """What takes turns: its step returns seconds, and those that count are kept."""

    name: str
    seconds: list[float]

    def step(self) -> float: ...


def take_turns(takers: Sequence[Taker], repeats: int, warm_up: int) -> None:
    """Let all take a step in turns, `warm_up` rounds that are not counted and `repeats` whose seconds they keep."""
    for round_index in range(warm_up + repeats):
        for taker in takers:
            seconds = taker.step()
            if round_index >= warm_up:
                taker.seconds.append(seconds)


class Contestant:
    """`num_workers` processes, started by the `commands`: each starts one, or several through mpirun.

    Each command gets the port to serve as its last argument. Use as a context: its end ends the processes.
    """

    def __init__(self, name: str, commands: Sequence[Command], num_workers: int) -> None:
        self.name, self.seconds, self.peak_bytes = name, list[float](), 0
        self._stack = ExitStack()
        try:
            self._start(commands, num_workers)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def about(self) -> dict[str, str]:
        """What the first worker told of itself: its libraries and their versions."""
        return dict(self._hellos[0])

    def step(self) -> float:
        """Return the seconds of one step, those of the slowest worker; `peak_bytes` is the largest worker's by now."""
        time.sleep(PAUSE_SECONDS)
        for stream in self._streams:
            stream.write("step\n")
            stream.flush()
        answers = [self._read(stream) for stream in self._streams]
        self.peak_bytes = max(answer["peak_bytes"] for answer in answers)
        return float(max(answer["seconds"] for answer in answers))

    def _start(self, commands: Sequence[Command], num_workers: int) -> None:
        server = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=num_workers))
        server.settimeout(1.0)
        port = str(server.getsockname()[1])
        jobs = []
        for command, env in commands:
            job_env = command_environment(env)
            job = subprocess.Popen([*command, port], cwd=REPO_ROOT, env=job_env, stdin=subprocess.DEVNULL)
            self._stack.callback(_end, job)
            jobs.append(job)
        self._streams: list[Any] = []
        while len(self._streams) < num_workers:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                if any(job.poll() is not None for job in jobs):
                    raise RuntimeError(f"{self.name} ended before its first step; its message is above") from None
                continue
            connection.settimeout(LONGEST_STEP_SECONDS)
            self._stack.enter_context(connection)
            self._streams.append(self._stack.enter_context(connection.makefile("rw", encoding="utf-8")))
        self._hellos = [self._read(stream) for stream in self._streams]

    def _read(self, stream: Any) -> dict[str, Any]:
        line = stream.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended in the middle of a step; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(port: int, about: Mapping[str, str], step: Callable[[], object]) -> None:
    """Run `step` each time the benchmark at `port` asks, and tell it the seconds, until it hangs up.

    The seconds are those of the whole call, or what it returns where it returns a float: it times a part of itself.
    """
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(dict(about)) + "\n")
        stream.flush()
        while stream.readline():
            start = time.perf_counter()
            told = step()
            seconds = told if isinstance(told, float) else time.perf_counter() - start
            stream.write(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}) + "\n")
            stream.flush()


def command_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, with `env`, of a command that finds the repository's packages."""
    path = os.pathsep.join([str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **env}


def peak_bytes() -> int:
    """Return the most memory that this process has had resident: the program's own, not that of what started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _end(job: subprocess.Popen[bytes]) -> None:
    """Wait until the job ends by itself, now that its streams are closed; kill it if it does not."""
    try:
        job.wait(timeout=30 if job.poll() is None else 0)
    except subprocess.TimeoutExpired:
        kill_tree(job.pid)
        job.wait()
