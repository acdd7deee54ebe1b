"""What a batch script is to ask SLURM for."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

_NAME = re.compile(r"[\w.@%+:,=|&*()\[\]-]+", re.ASCII)
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII)
_MEMORY = re.compile(r"[1-9]\d*[KMGT]?", re.ASCII)
TIME_FORMATS = "MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS or DAYS-HOURS:MINUTES:SECONDS"
PERIOD = 60  # seconds: by so much SLURM may announce the end of the time, and end it, early or late


@dataclass(frozen=True)
class BatchOptions:
    """The job. What is not given is as in the script of launch/."""

    kind: Annotated[Literal["", "train", "prep", "eval"], tyro.conf.Positional, tyro.conf.arg(metavar="KIND")] = ""
    """What the job does: train, prep (images to shards) or eval (score a trained network)."""
    nodes: int = 0
    """Nodes."""
    gpus_per_node: int = -1
    """GPUs of a node, and ranks if --ranks-per-node does not say otherwise; 0: none."""
    ranks_per_node: int = 0
    """Ranks of a node."""
    cores_per_rank: int = 0
    """Cores of a rank."""
    mem_per_core: str = ""
    """Memory of each of them, such as 4G."""
    time: str = ""
    """The longest time: MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS or DAYS-HOURS:MINUTES:SECONDS."""
    signal_seconds: int = 0
    """How long before the end of the time a training is told to write a checkpoint and to stop."""
    account: str = ""
    """The account that pays."""
    partition: str = ""
    """The partition, or several with commas."""
    qos: str = ""
    """The quality of service."""
    constraint: str = ""
    """Features that nodes must have, such as a100."""
    job_name: str = ""
    """What the job is called in squeue, and its output's file after it."""
    launcher: Literal["pmix", "pmi2", "mpirun"] = "pmix"
    """What starts the ranks: srun --mpi=pmix (Open MPI), srun --mpi=pmi2 (MPICH, Intel MPI), or mpirun in the job."""
    mpirun_options: str = ""
    """Options of that mpirun, as in a shell, behind an equals sign: --mpirun-options='--bind-to core'."""
    modules: tuple[str, ...] = ()
    """Modules to load, in this order: those that the MPI of mpi4py needs."""
    venv: str = ""
    """The virtual environment; default: .venv in the folder that the job runs in."""
    root: str = ""
    """The folder that the job runs in; default: where it is submitted."""
    nics: tuple[str, ...] = ()
    """Network cards, such as mlx5_0:1 mlx5_1:1, one for each rank of a node; default: MPI chooses."""
    cpu_bind: str = ""
    """How srun binds ranks to cores, such as map_ldom:3,1,7,5 where GPU 0 is not nearest to the first cores; default:
    cores, in their order."""
    out: str = ""
    """Write the script to this file, which must not exist yet; default: print it."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if not self.kind:
            raise ValueError("KIND is missing: train, prep or eval; --help has examples")
        least = {"nodes": 0, "gpus_per_node": -1, "ranks_per_node": 0, "cores_per_rank": 0, "signal_seconds": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"--{_option(name)} is {getattr(self, name)}, but must be at least {max(value, 0)}")
        self._check_texts()
        if self.mpirun_options and self.launcher != "mpirun":
            raise ValueError(f"--mpirun-options are for --launcher mpirun, not for {self.launcher}")
        if self.cpu_bind and self.launcher == "mpirun":
            raise ValueError("--cpu-bind is srun's; give mpirun its own by --mpirun-options")
        if self.gpus_per_node == 0 and not self.ranks_per_node:
            raise ValueError("without GPUs (--gpus-per-node 0), --ranks-per-node says how many ranks a node runs")
        if self.kind == "prep" and self.gpus_per_node > 0:
            raise ValueError("prep needs no GPU; leave --gpus-per-node out, and give --ranks-per-node")
        for name in ("signal_seconds", "cpu_bind", "nics"):
            if getattr(self, name) and (self.kind == "prep" or (self.kind == "eval" and name != "cpu_bind")):
                raise ValueError(f"--{_option(name)} is for train, not for {self.kind}")
        if self.time:
            self._check_time(seconds_of(self.time))

    def _check_texts(self) -> None:
        for name in ("account", "partition", "qos", "constraint", "job_name", "cpu_bind"):
            value = getattr(self, name)
            if value and not _NAME.fullmatch(value):
                raise ValueError(f"--{_option(name)} {value!r} is none: SLURM's have no spaces and quotes")
        if self.mem_per_core and not _MEMORY.fullmatch(self.mem_per_core):
            raise ValueError(f"--mem-per-core {self.mem_per_core} is no size of memory; write 4G or 4000M")

    def _check_time(self, seconds: int) -> None:
        """Raise ValueError if a training has no time before it is told to stop."""
        before = self.signal_seconds or 90
        if self.kind == "train" and seconds < before + 2 * PERIOD:
            raise ValueError(
                f"--time {self.time} is too short for a training that is told to stop {before} s before its end, which "
                f"SLURM does up to {PERIOD} s early: give at least {before + 2 * PERIOD} s, or fewer --signal-seconds"
            )


def seconds_of(time: str) -> int:
    """Return the seconds of a time as SLURM writes it. ValueError if it is none."""
    found = _TIME.fullmatch(time)
    if found is None:
        raise ValueError(f"--time {time} is no time of SLURM's: {TIME_FORMATS}")
    days, fields = int(found["days"] or 0), [int(found[name] or 0) for name in ("first", "second", "third")]
    if any(field > 59 for field in fields[1:]):
        raise ValueError(f"--time {time} has more than 59 minutes or seconds behind a colon: {TIME_FORMATS}")
    if found["days"] is None and found["third"] is None:
        fields = [0, *fields[:2]]  # minutes come first
    hours, minutes, seconds = fields
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError(f"--time {time} is none, which SLURM takes for no limit: {TIME_FORMATS}")
    return total


def _option(name: str) -> str:
    return name.replace("_", "-")
