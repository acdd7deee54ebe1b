"""A SLURM of virtual nodes with fake GPUs, on this machine, in a folder of its own. For root; systemd is not needed.

`with Cluster(folder) as cluster:` starts munged, slurmctld and a slurmd for each node, on ports that are free, and
ends them with everything that they started. For a shell: `python -m tests.slurm.cluster FOLDER`.
"""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from tests.mpi_run import REPO_ROOT, until
from tests.slurm.install import missing
from tests.virtual_hosts import VirtualHost, command_of, environment_of

GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")  # SLURM wants device files, and opens none
PROCESSORS = ("CPUs", "Boards", "SocketsPerBoard", "CoresPerSocket", "ThreadsPerCore")
START_SECONDS = 60.0
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
CONFIGURATION = """\
ClusterName=owt
FirstJobId={first_job}
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{task}
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
TmpFS={folder}/%n/tmp
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
MinJobAge=3600
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""
NODE = (
    "NodeName=n{number} NodeHostname=n{number} NodeAddr=127.0.0.1 Port={port} {cpus} RealMemory=4000 Gres=gpu:{gpus}\n"
)


class Cluster:
    """`num_nodes` nodes n1, n2, ... of 4 CPUs and `num_gpus` GPUs each; files and logs in `folder`.

    The CPUs only count; with `cpus`, what this_machine() returns, each node has those, and ranks are bound to them.

    Nodes have their own names, and this machine's network. `kill_wait` seconds pass between SIGTERM and SIGKILL. A job
    in the partition `urgent` takes the nodes of others, which have a minute after SIGTERM.
    """

    def __init__(
        self, folder: Path, num_nodes: int = 2, num_gpus: int = 2, kill_wait: int = 60,
        cpus: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.nodes = folder, [f"n{number}" for number in range(1, num_nodes + 1)]
        self._num_gpus, self._kill_wait, self._cpus = num_gpus, kill_wait, cpus
        self._let_go_on: set[tuple[str, str]] = set()  # jobs that were told to go on, and in which life
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "PMI", "OMPI"))}
        self.env = {**inherited, "SLURM_CONF": f"{folder}/slurm.conf"}
        self._hosts: dict[str, VirtualHost] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._running = ExitStack()

    def __enter__(self) -> "Cluster":
        with ExitStack() as stack:
            self._configure()
            stack.callback(lambda: [daemon.wait() for daemon in self._daemons])  # when their hosts are gone
            for name in ("controller", *self.nodes):
                self._hosts[name] = stack.enter_context(VirtualHost(name, self.folder / "hosts"))
            self._start_munge()
            self._start("controller", "slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self._start_node(node)
            until(lambda: self._idle() == len(self.nodes), START_SECONDS, self.logs)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

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

    @contextmanager
    def without_node(self, node: str) -> Iterator[None]:
        """Let a node fail, with all that runs on it, and come back after the block."""
        self._hosts[node].kill_processes()
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        try:
            yield
        finally:
            self._start_node(node)
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

    def _is_there(self, job: str) -> bool:
        """Return whether a process of the job, or a slurmstepd that looks after one, is there."""
        processes = [pid for host in self._hosts.values() for pid in host.processes()]
        return any(
            environment_of(pid).get(b"SLURM_JOB_ID") == job.encode()
            or command_of(pid).startswith(f"slurmstepd: [{job}.".encode())
            for pid in processes
        )

    def _configure(self) -> None:
        ports = _free_ports(1 + len(self.nodes))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("controller", *self.nodes):
            (self.folder / name / "tmp").mkdir(parents=True)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost controller {' '.join(self.nodes)}\n")
        cpus = " ".join(f"{name}={number}" for name, number in (self._cpus or {"CPUs": 4}).items())
        nodes = "".join(
            NODE.format(number=number, port=port, gpus=self._num_gpus, cpus=cpus)
            for number, port in enumerate(ports[1:], 1)
        )
        # MPICH names what ranks of a node share by the job's number, and killed ranks leave it behind
        first_job = secrets.randbelow(60_000_000) + 1
        text = CONFIGURATION.format(
            ports=ports, folder=self.folder, first_job=first_job, kill_wait=self._kill_wait,
            task="affinity" if self._cpus else "none",
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text.replace("PreemptType", f"{nodes}PreemptType"))
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
        self._start("controller", "munged", "munged", "--foreground", "--force", "--num-threads=2", *given)
        until((folder / "socket").exists, START_SECONDS, self.logs)

    def _start_node(self, node: str) -> None:
        self._start(node, node, "slurmd", "-D", PMIX_MCA_psec="native")

    def _start(self, host: str, log: str, *command: str, **variables: str) -> None:
        """Start a daemon, which ends with its host."""
        with open(self.folder / f"{log}.out.log", "ab") as output:
            daemon = subprocess.Popen(  # ended by the kernel if the tests are killed
                ["setpriv", "--pdeathsig", "KILL", *self._hosts[host].inside(*command)],
                env=self.env | variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        self._daemons.append(daemon)

    def _idle(self) -> int:
        command = ["sinfo", "--noheader", "--states=idle", "--Node", "--format=%N"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        return len(set(done.stdout.split()))  # a node is named once for each partition


def this_machine() -> dict[str, int]:
    """Return what slurmd sees of this machine's processors: CPUs, CoresPerSocket, ThreadsPerCore, ..."""
    said = subprocess.run(["slurmd", "-C"], capture_output=True, text=True, check=True, timeout=60).stdout
    facts = dict(word.split("=", 1) for word in said.split() if "=" in word)
    return {name: int(facts[name]) for name in PROCESSORS}


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
    if reason := missing(open_mpi=False):
        sys.exit(reason)
    with Cluster(Path(sys.argv[1]).absolute()) as shell:
        print("a shell with a SLURM cluster; leave it to take the cluster down")
        subprocess.run([os.environ.get("SHELL", "bash")], env=shell.env, check=False)
