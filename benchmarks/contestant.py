"""Contestants: groups of worker processes that are kept alive and run one training step each time they are told to.

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
from typing import Any

from tests.mpi_run import kill_tree

REPO_ROOT = Path(__file__).resolve().parent.parent
LONGEST_STEP_SECONDS = 600.0
# after a step OpenBLAS keeps its threads spinning for some 30 ms: the next contestant waits for that
PAUSE_SECONDS = 0.1

Command = tuple[Sequence[str], Mapping[str, str]]  # the command line, and what to add to the environment


class Contestant:
    """`num_workers` processes, started by the `commands`: each starts one, or several through mpirun.

    Each command gets the port to serve as its last argument. Use as a context: its end ends the processes.
    """

    def __init__(self, name: str, commands: Sequence[Command], num_workers: int) -> None:
        self.name, self.seconds = name, list[float]()
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
        """Return the seconds of one step, that of the slowest worker."""
        time.sleep(PAUSE_SECONDS)
        for stream in self._streams:
            stream.write("step\n")
            stream.flush()
        return float(max(self._read(stream)["seconds"] for stream in self._streams))

    def _start(self, commands: Sequence[Command], num_workers: int) -> None:
        server = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=num_workers))
        server.settimeout(1.0)
        port = str(server.getsockname()[1])
        path = os.pathsep.join([str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        jobs = []
        for command, env in commands:
            job_env = {**os.environ, "PYTHONPATH": path, **env}
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
    """Run `step` each time the benchmark at `port` asks, and tell it the seconds, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(dict(about)) + "\n")
        stream.flush()
        while stream.readline():
            start = time.perf_counter()
            step()
            stream.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")
            stream.flush()


def _end(job: subprocess.Popen[bytes]) -> None:
    """Wait until the job ends by itself, now that its streams are closed; kill it if it does not."""
    try:
        job.wait(timeout=30 if job.poll() is None else 0)
    except subprocess.TimeoutExpired:
        kill_tree(job.pid)
        job.wait()
