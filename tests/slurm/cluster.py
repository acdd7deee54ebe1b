"""A SLURM of virtual nodes with fake GPUs, on this machine, in a folder of its own. For root; systemd is not needed.

`with Cluster(folder) as cluster:` starts munged, slurmctld and a slurmd for each node, on ports that are free, and
ends them with everything that they started. For a shell: `python -m tests.slurm.cluster FOLDER`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from tests.mpi_run import REPO_ROOT, descendants

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "setpriv")
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "libpmix2")
GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # SLURM wants device files, and opens none
START_SECONDS = 60.0
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
CONFIGURATION = """\
ClusterName=owt
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 Gres=gpu:{gpus}\n"


def missing() -> str | None:
    """Return why there can be no cluster here, None if there can. Installs SLURM where OWT_MPI_INSTALL_SLURM is 1."""
    if os.geteuid() != 0:
        return "a SLURM cluster of virtual nodes is started by root alone"
    if any(shutil.which(program) is None for program in PROGRAMS) and os.environ.get("OWT_MPI_INSTALL_SLURM") == "1":
        subprocess.run(["apt-get", "update"], check=True, capture_output=True, timeout=300)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(INSTALL, check=True, capture_output=True, timeout=600, env=environment)
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        by_hand = " ".join(INSTALL)
        return f"{', '.join(absent)} not found: {by_hand}, or set OWT_MPI_INSTALL_SLURM=1 to let the tests do it"
    return None


def until(condition: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> None:
    """Return when `condition` holds; AssertionError with what `what` returns if it does not within `limit_s`."""
    end, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what()}"
        pause.wait(0.1)


class Cluster:
    """`num_nodes` nodes n1, n2, ... of 4 CPUs and `num_gpus` GPUs each; files and logs in `folder`."""

    def __init__(self, folder: Path, num_nodes: int = 2, num_gpus: int = 2) -> None:
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, num_nodes + 1)]
        self._num_gpus, self._daemons = num_gpus, {}
        self._let_go_on: set[tuple[str, str]] = set()  # jobs that were told to go on, and in which life
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "PMI", "OMPI"))}
        # every process of the cluster, its jobs' included, inherits the second variable and is found by it in the end
        self.env = {**inherited, "SLURM_CONF": f"{folder}/slurm.conf", "OWT_MPI_TEST_CLUSTER": str(folder)}
        self._daemons: dict[str, subprocess.Popen[bytes]]

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._start_munge()
            self._start("ctld", ["slurmctld", "-D"])
            for node in self.nodes:
                self.start_node(node)
            until(lambda: self._idle() == len(self.nodes), START_SECONDS, self.logs)
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()

    def run(self, *command: str) -> str:
        """Return what a SLURM command prints. AssertionError with its message if it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: str | Path, **variables: str) -> str:
        """Return the number of the job that sbatch makes, from the repository, with `variables` in its environment."""
        command = ["sbatch", "--parsable", *map(str, arguments)]
        done = subprocess.run(
            command, env=self.env | variables, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """Return what SLURM says of a job, by its names: JobState, ExitCode, Restarts, NodeList, ..."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, limit_s: float = 120.0) -> str:
        """Return the state in which a job has ended, requeued or not."""
        until(lambda: self._is_over(job), limit_s, lambda: f"{self.facts(job)}\n{self.logs()}")
        return self.facts(job)["JobState"]

    def wait_for_state(self, job: str, state: str) -> None:
        """Return when a job is in `state`."""
        until(lambda: self.facts(job)["JobState"] == state, 120, lambda: f"{self.facts(job)}\n{self.logs()}")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, ["slurmd", "-D", "-N", node], PMIX_MCA_psec="native")

    @contextmanager
    def without_node(self, node: str) -> Iterator[None]:
        """Let a node fail, with all that runs on it, and come back after the block."""
        daemon = self._daemons[node]
        lost = descendants(daemon.pid)
        daemon.kill()
        daemon.wait()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        _kill([*lost, *_processes_with(self._mark, f"SLURMD_NODENAME={node}".encode())])
        try:
            yield
        finally:
            self.start_node(node)
            until(lambda: self._idle() == len(self.nodes), START_SECONDS, self.logs)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def _is_over(self, job: str) -> bool:
        """Return whether a job has ended; let it start soon where SLURM lets it wait two minutes, having been requeued.

        Not while something of the job's first life is there, and not within the second of its end: a node counts in
        whole seconds, and takes permission that is as old as the end of the first life for that life's ("Job already
        killed, do not launch batch job"). A job that is pending, not completing any more, has ended on every node.
        """
        facts = self.facts(job)
        waits = facts["Restarts"] != "0" and facts["JobState"] == "PENDING" and facts["Reason"] == "BeginTime"
        life = job, facts["Restarts"]
        if waits and life not in self._let_go_on and not self._is_there(job):
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now+1")
            self._let_go_on.add(life)  # once, or its start would be put off for ever
        return facts["JobState"] in ENDED

    @property
    def _mark(self) -> bytes:
        return f"OWT_MPI_TEST_CLUSTER={self.folder}".encode()

    def _is_there(self, job: str) -> bool:
        """Return whether a process of the job, or a slurmstepd that looks after one, is there."""
        if _processes_with(self._mark, f"SLURM_JOB_ID={job}".encode()):
            return True
        daemon = f"slurmstepd: [{job}.".encode()
        return any(daemon in _read(Path(f"/proc/{pid}/cmdline")) for pid in _processes_with(self._mark))

    def _configure(self) -> None:
        host, ports = socket.gethostname().split(".")[0], _free_ports(1 + len(self.nodes))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("ctld", *self.nodes):
            (self.folder / name).mkdir()
        nodes = "".join(
            NODE.format(number=number, host=host, port=port, gpus=self._num_gpus)
            for number, port in enumerate(ports[1:], 1)
        )
        # MPICH names what ranks of a node share by the job's number, and killed ranks leave it behind
        first_job = secrets.randbelow(60_000_000) + 1
        text = CONFIGURATION.format(host=host, ports=ports, folder=self.folder, first_job=first_job)
        (self.folder / "slurm.conf").write_text(text.replace("PartitionName", f"{nodes}PartitionName"))
        files = ",".join(GPU_FILES[: self._num_gpus])
        (self.folder / "gres.conf").write_text(f"Name=gpu File={files}\n" if files else "")

    def _start_munge(self) -> None:
        """Start a munged of the cluster's own, with a key of its own."""
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        options = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        given = [f"--{option}={folder}/{name}" for option, name in options.items()]
        self._start("munge", ["munged", "--foreground", "--force", "--num-threads=2", *given])
        until((folder / "socket").exists, START_SECONDS, self.logs)

    def _start(self, name: str, command: list[str], **variables: str) -> None:
        with open(self.folder / f"{name}.out.log", "ab") as output:
            self._daemons[name] = subprocess.Popen(  # ended by the kernel if the tests are killed
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=self.env | variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _idle(self) -> int:
        command = ["sinfo", "--noheader", "--states=idle", "--Node", "--format=%N"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        return len(done.stdout.split())

    def _kill_all(self) -> None:
        """Kill the daemons, and every process that they started, until none is left."""
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        while left := _processes_with(self._mark):
            _kill(left)


def _kill(processes: Iterable[int]) -> None:
    """Kill those of `processes` that are there."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_with(*variables: bytes) -> list[int]:
    """Return the processes, but for this one, that have all of `variables` in their environment."""
    environments = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/environ")}
    del environments[os.getpid()]
    return [pid for pid, path in environments.items() if set(variables) <= set(_read(path).split(b"\0"))]


def _read(path: Path) -> bytes:
    """Return a file's content, nothing if its process has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on, each another."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    with Cluster(Path(sys.argv[1]).absolute()) as shell:
        print("a shell with a SLURM cluster; leave it to take the cluster down")
        subprocess.run([os.environ.get("SHELL", "bash")], env=shell.env, check=False)
