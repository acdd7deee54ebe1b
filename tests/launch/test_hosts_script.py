"""launch/hosts.sh: what it makes of its file of hosts, of the hosts, and of how mpirun ends. Hosts are this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mpi_run import REPO_ROOT
from tests.virtual_hosts import environment_of

MPICH, OPEN_MPI = "HYDRA build details:", "mpirun (Open MPI) 5.0.11"
# Runs a command on a "host", as ssh would; "gone" does not answer, and "other" has another MPI.
AGENT = """#!/bin/sh
host=$1; shift
case $host in
gone) echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255 ;;
other) sh -c "$*" | sed "s/Python 3/Python 2/" ;;
*) exec sh -c "$*" ;;
esac
"""
MPIRUN = """#!/bin/sh
if [ "$1" = --version ]; then echo "{version}"; exit; fi
echo "mpirun $*" >>{log}
cat {run}/launch/hosts >>{log}
{command}
"""


class Script:
    """The script, with an mpirun that does `command`, and what it prints and starts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run_dir, self._log = folder, folder / "run", folder / "log"
        self._agent = self._program(folder / "agent", AGENT)
        programs = folder / "environment" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text(f"PATH={programs}:$PATH\n")
        self._program(programs / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')

    def run(
        self, hosts: str, *options: str, command: str = "", version: str = MPICH, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "hosts.txt").write_text(hosts)
        text = MPIRUN.format(version=version, log=self._log, run=self.run_dir, command=command)
        self._program(self.folder / "environment" / "bin" / "mpirun", text)
        env = {**os.environ, "OWT_MPI_VENV": str(self.folder / "environment"), "OWT_MPI_AGENT": str(self._agent),
               "PYTHONPATH": str(REPO_ROOT), **variables}  # fmt: skip
        arguments = [str(self.folder / "hosts.txt"), str(self.run_dir), *options]
        try:
            return subprocess.run(
                ["bash", str(REPO_ROOT / "launch" / "hosts.sh"), *arguments],
                cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
        finally:
            self._kill_what_is_left()

    @property
    def started(self) -> list[str]:
        """The calls of mpirun, each with its file of hosts behind it."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def trained(self) -> str:
        """A command after which the run has weights."""
        return f"touch {self.run_dir}/weights.h5"

    def _kill_what_is_left(self) -> None:
        """Kill what the script has started and not ended: mpirun is in a session of its own, and outlives it."""
        while left := self._processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _processes(self) -> list[int]:
        """Return the script's processes, which have its agent in their environment."""
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in found if environment_of(pid).get(b"OWT_MPI_AGENT") == str(self._agent).encode()]

    def _program(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield Script(tmp_path)
    signal.signal(signal.SIGINT, before)


def test_the_ranks_of_all_hosts_are_started_with_the_folder_and_go_on_from_there(script: Script):
    done = script.run("one:4 # the first\n\ntwo slots=2\nthree\n", "--preset", "demo", command=script.trained())
    assert (done.returncode, done.stderr) == (0, "")
    call, *hosts = script.started
    assert hosts == ["one:4", "two:2", "three:1"]
    launch = script.run_dir / "launch"
    assert call == (
        f"mpirun -f {launch}/hosts -launcher rsh -launcher-exec {launch}/agent -n 7 "
        f"{script.folder}/environment/bin/python -m owt_mpi.train --run-dir {script.run_dir} --stall-abort-seconds 600 "
        "--preset demo --resume auto"
    )


def test_open_mpi_is_told_the_same_in_its_words(script: Script):
    variables = {"OWT_MPI_CORES": "8", "OWT_MPI_INTERFACE": "ib0", "OMP_NUM_THREADS": "8"}
    done = script.run(
        "one:4\n", command=f"env >>{script.folder}/env; {script.trained()}", version=OPEN_MPI, **variables
    )
    assert (done.returncode, done.stderr) == (0, "")
    call, *hosts = script.started
    assert hosts == ["one slots=4"]
    assert f"mpirun --hostfile {script.run_dir}/launch/hosts --map-by slot:PE=8 --bind-to core -x " in call
    assert {"-x OMP_NUM_THREADS", "-x UCX_NET_DEVICES"} <= {f"-x {word.split()[0]}" for word in call.split("-x ")[1:]}
    environment = (script.folder / "env").read_text().splitlines()
    assert {
        f"PRTE_MCA_plm_ssh_agent={script.run_dir}/launch/agent", "OMPI_MCA_btl_tcp_if_include=ib0",
        "UCX_NET_DEVICES=ib0", "NCCL_SOCKET_IFNAME=ib0", "CUDA_DEVICE_ORDER=PCI_BUS_ID",
    } <= set(environment)  # fmt: skip


def test_binding_and_interface_in_the_words_of_mpich(script: Script):
    script.run("one\n", command=script.trained(), OWT_MPI_CORES="8", OWT_MPI_INTERFACE="ib0")
    assert " -iface ib0 -bind-to core:8 -n 1 " in script.started[0]


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        ("", "names no host"),
        ("one:4\none\n", "names one twice; give it one line, with all its ranks"),
        ("one:many\n", "one many : write one:4 for 4 ranks"),
        ("one 4 8\n", "one 4 8: write one:4 for 4 ranks"),
        ("$(reboot)\n", "$(reboot) is no name of a host"),
    ],
)
def test_a_file_of_hosts_that_makes_no_sense_is_refused(script: Script, hosts: str, message: str):
    done = script.run(hosts)
    assert done.returncode == 2
    assert message in done.stderr
    assert not script.started


def test_a_host_that_does_not_answer_is_named(script: Script):
    done = script.run("one\ngone\n")
    assert done.returncode == 1
    assert "gone does not answer, or lacks something: ssh: connect to host gone port 22" in done.stderr
    assert "not all hosts of" in done.stderr
    assert not script.started


def test_a_host_with_other_programs_is_named(script: Script):
    done = script.run("one\nother\n")
    assert done.returncode == 1
    assert "other is not as this host:\n" in done.stderr
    assert "\n> Python 2" in done.stderr
    assert not script.started


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("exit 85", 85, "stopped; the same command goes on"),
        ("exit 3", 3, ""),
        ("exit 9", 9, "the job has ended with code 9; the same command goes on"),
        ("exit 0", 1, "the job has ended with code 1"),  # and has written no weights: Open MPI's, having lost a host
        ("kill -TERM $PPID; exec sleep 60", 138, "stopped; the same command goes on"),  # SIGUSR1, before ranks listen
        ("trap 'exit 85' USR1; kill -INT $PPID; while :; do :; done", 85, "stopped; the same command goes on"),
        ("trap 'kill -INT $PPID' USR1; trap 'exit 7' TERM; kill -INT $PPID; while :; do :; done", 7, "stopped"),
    ],
    ids=["stopped", "bad data", "failed", "not trained", "signalled too early", "interrupted", "interrupted twice"],
)
def test_how_mpirun_ends_is_how_the_script_ends(script: Script, command: str, code: int, said: str):
    done = script.run("one\n", command=command)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_a_lost_host_is_left_out_when_the_job_is_started_again(script: Script):
    lost = f"touch {script.folder}/lost; sed -i 's/^two)/two-is-here)/; s/^gone)/two)/' {script.folder}/agent; exit 9"
    again = f"[ -e {script.folder}/lost ] || {{ {lost}; }}; {script.trained()}"
    done = script.run("one:2\ntwo:2\n", command=again, OWT_MPI_RESTARTS="1")
    assert done.returncode == 0, done.stderr
    assert (
        "the job has ended with code 9; it goes on from the newest checkpoint on the hosts that answer" in done.stdout
    )
    assert "two does not answer" in done.stderr
    assert [line for line in script.started if not line.startswith("mpirun")] == ["one:2", "two:2", "one:2"]


def test_a_dry_run_needs_no_weights(script: Script):
    assert script.run("one\n", "--dry-run").returncode == 0
