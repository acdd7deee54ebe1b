"""Two hosts, which are namespaces of this machine, on a network of their own, and a training on them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.command import conftest as small_training
from tests.gated import GatedTraining
from tests.mpi_run import NO_MPIRUN, ONE_THREAD, OPEN_MPI_ENV, REPO_ROOT, ends, find_mpirun, kill_tree, until
from tests.virtual_hosts import VirtualHost, no_hosts

ADDRESSES = {"east": "10.77.0.1", "west": "10.77.0.2"}
# What ssh does, between namespaces; as ssh, it reaches no host that is not connected.
AGENT = """#!/bin/sh
case $1 in
{cases}
*) echo "$1: unknown host" >&2; exit 255 ;;
esac
nsenter --target={switch} --net ip link show "$1" | grep -q bridge || {{ echo "$1: no route to host" >&2; exit 255; }}
shift
exec nsenter --target=$pid --uts --mount --net -- sh -c "cd / && $*"
"""
SSHD = """
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""
SSH = """
IdentityFile {folder}/user
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
BatchMode yes
"""
shards, preset = small_training.shards, small_training.preset


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.netns)


class Hosts:
    """The hosts east and west with two ranks each, and what runs a command on one of them."""

    def __init__(self, folder: Path, switch: VirtualHost, east: VirtualHost, west: VirtualHost) -> None:
        self.east, self.west, self._switch = east, west, switch
        self.hostfile, self.agent = folder / "hosts.txt", folder / "agent"
        self.hostfile.write_text("# two hosts\neast:2\nwest slots=2\n")
        cases = "\n".join(f"{host.name}) pid={host.pid} ;;" for host in (east, west))
        self.agent.write_text(AGENT.format(cases=cases, switch=switch.pid))
        self.agent.chmod(0o755)
        self._run(switch, "ip", "link", "add", "bridge", "type", "bridge")
        self._run(switch, "ip", "link", "set", "bridge", "up")
        for host in (east, west):
            self._connect(host)

    def cut_off_west(self) -> None:
        """Let the switch pass nothing on to west and from there; neither host sees that."""
        self._run(self._switch, "ip", "link", "set", "west", "nomaster")

    def start_sshd(self, folder: Path) -> str:
        """Start an SSH server on west, with its files in `folder`, and return the command that reaches it."""
        folder.mkdir()
        for key in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True, timeout=30
            )
        (folder / "sshd_config").write_text(SSHD.format(folder=folder, address=ADDRESSES["west"]))
        (folder / "ssh_config").write_text(SSH.format(folder=folder))
        # which asks for a folder of its own in /run
        server = 'mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$(command -v sshd)" -f "$0"'
        self._run(self.west, "sh", "-c", server, str(folder / "sshd_config"))  # goes into the background
        return f"ssh -F {folder}/ssh_config"

    def _connect(self, host: VirtualHost) -> None:
        """Give the host an interface eth0, with a cable to the switch."""
        cable = ("ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._run(self._switch, *cable)
        self._run(self._switch, "ip", "link", "set", host.name, "master", "bridge", "up")
        self._run(host, "ip", "addr", "add", f"{ADDRESSES[host.name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._run(host, "ip", "link", "set", device, "up")

    def _run(self, host: VirtualHost, *command: str) -> None:
        subprocess.run(host.inside(*command), check=True, timeout=30)


class HostsTraining(GatedTraining):
    """A training that launch/hosts.sh starts from the host east."""

    def __init__(self, hosts: Hosts, folder: Path, shards: Path, preset: Path) -> None:
        super().__init__(folder, shards, preset)
        self.hosts = hosts
        self._script: subprocess.Popen[bytes] | None = None

    def start(self, *given: str, **variables: str) -> "HostsTraining":
        """Start the script, with `given` as further options of the training; what it prints goes to `output`."""
        # UCX would see that the hosts are one machine, and go past their network
        env = {**os.environ, **ONE_THREAD, **OPEN_MPI_ENV, "UCX_TLS": "self,tcp", "OWT_MPI_VENV": sys.prefix,
               "OWT_MPI_AGENT": str(self.hosts.agent), "OWT_MPI_INTERFACE": "eth0", **variables}  # fmt: skip
        command = ["bash", "launch/hosts.sh", str(self.hosts.hostfile), str(self.run_dir), *self.arguments, *given]
        with (self.folder / "job.out").open("ab") as output:
            self._script = subprocess.Popen(
                self.hosts.east.inside(*command),
                cwd=REPO_ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        return self

    def send(self, number: signal.Signals) -> None:
        assert self._script is not None
        self._script.send_signal(number)

    def wait(self) -> int:
        """Return the exit code of the script."""
        until(self.has_ended, 120, lambda: self.output)
        assert self._script is not None
        return int(self._script.returncode)

    def has_ended(self) -> bool:
        assert self._script is not None
        return self._script.poll() is not None

    def wait_until_gone(self, processes: list[int]) -> None:
        """Return when none of the processes is left."""
        assert all(ends(process, 60) for process in processes), self.output

    def end(self) -> None:
        if self._script is not None:
            kill_tree(self._script.pid)
            self._script.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts, connected by a switch."""
    reason = no_hosts("ip") or (NO_MPIRUN if find_mpirun() is None else None)
    if reason is not None:
        pytest.skip(reason)
    if not Path(sys.prefix, "bin", "activate").exists():
        pytest.skip("the tests do not run in a virtual environment")
    names = tmp_path / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in ADDRESSES.items()))
    with ExitStack() as stack:
        switch, east, west = (stack.enter_context(VirtualHost(name, names, ["net"])) for name in ("switch", *ADDRESSES))
        yield Hosts(tmp_path, switch, east, west)


MakeTraining = Callable[[str], HostsTraining]


@pytest.fixture
def make_training(hosts: Hosts, shards: Path, preset: Path, tmp_path: Path) -> Iterator[MakeTraining]:
    """Make trainings that are not started yet, and end them after the test."""
    made = []

    def make(name: str) -> HostsTraining:
        made.append(HostsTraining(hosts, tmp_path / name, shards, preset))
        return made[-1]

    yield make
    for training in made:
        training.end()
