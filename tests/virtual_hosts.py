"""Hosts that are namespaces of this machine, each with a hostname and a file of hosts of its own. For root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("unshare", "nsenter", "setpriv", "mount", "hostname")
# $1 is the file of hosts, $2 the name; a line on stdout says that the host is there
HOLD = 'mount --bind "$1" /etc/hosts && hostname "$2" && echo && exec sleep infinity'


def no_hosts(*programs: str) -> str | None:
    """Return why there can be no virtual hosts with those programs here, None if there can."""
    if os.geteuid() != 0:
        return "hosts of their own namespaces are made by root alone"
    absent = [program for program in (*PROGRAMS, *programs) if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found"
    allowed = subprocess.run(["unshare", "--uts", "--mount", "--net", "true"], capture_output=True, check=False)
    return None if allowed.returncode == 0 else f"no namespaces: {allowed.stderr.decode().strip()}"


class VirtualHost:
    """A host `name` that knows the names in `hosts_file`; `namespaces` ("net") are had besides those of every host.

    What runs on it is known by its namespace of names, which children inherit and no program leaves by chance.
    """

    def __init__(self, name: str, hosts_file: Path, namespaces: Sequence[str] = ()) -> None:
        self.name, self._namespaces = name, ["--uts", "--mount", *(f"--{each}" for each in namespaces)]
        self._command = ["setpriv", "--pdeathsig", "KILL", "unshare", *self._namespaces, "sh", "-c", HOLD, "sh",
                         str(hosts_file), name]  # fmt: skip

    def __enter__(self) -> "VirtualHost":
        # which holds the namespaces, and is ended by the kernel if the tests are killed
        self._holder = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        is_there = self._holder.stdout.readline()
        self._holder.stdout.close()
        assert is_there, f"no host {self.name}"
        self._names = os.readlink(f"/proc/{self._holder.pid}/ns/uts")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_processes()
        self._holder.kill()
        self._holder.wait()

    @property
    def pid(self) -> int:
        """A process by which other programs name the namespaces."""
        return self._holder.pid

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs `command` on this host, in the working directory that it is started in."""
        enter = ["nsenter", f"--target={self.pid}", *self._namespaces, "--"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]

    def processes(self) -> list[int]:
        """Return what runs on this host."""
        found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [pid for pid in found if pid != self.pid and _names_of(pid) == self._names]

    def kill_processes(self) -> None:
        """Kill what runs on this host, until nothing is left."""
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def environment_of(pid: int) -> Mapping[bytes, bytes]:
    """Return the environment with which a process was started, empty if it has ended."""
    variables = (each.partition(b"=") for each in _read(pid, "environ").split(b"\0"))
    return {name: value for name, _, value in variables}


def command_of(pid: int) -> bytes:
    """Return what a process says that it is, its words separated by zero bytes; nothing if it has ended."""
    return _read(pid, "cmdline")


def _names_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:  # it has ended
        return None


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
