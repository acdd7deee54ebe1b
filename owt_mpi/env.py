"""Print what this program runs on, for reports of faults: `python -m owt_mpi.env --json env.json`."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from owt_mpi.comm.guard import DATA_ERROR, CollectiveExit, run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.environment import launcher, machine, software
from owt_mpi.environment.probes import PROBES, ask

DESCRIPTION = """Print what this program runs on, for reports of faults: versions, MPI, processor, memory and its
limits, libraries, GPUs, SLURM, what is left in shared memory, extras.

What is missing is said, and is no error. Of the environment only variables that libraries heed are printed, none whose
name sounds like a secret; names of hosts and folders are. Under mpirun or srun rank 0 answers.

Examples:
  python -m owt_mpi.env
  srun --mpi=pmi2 -n 1 python -m owt_mpi.env --json env.json"""

Facts = dict[str, str]
SECTIONS: dict[str, Callable[[], Facts]] = {
    "program": lambda: {**software.basics(), **software.program()},
    "system": machine.system,
    "processor": machine.processor,
    "memory": machine.memory,
    "shared memory": machine.shared_memory,
    "launcher": launcher.mpirun,
    **{name: partial(ask, name) for name in PROBES},
    "SLURM": launcher.slurm,
    "variables": launcher.variables,
    "extras": software.extras,
    "packages": software.package_versions,
}


@dataclass(frozen=True)
class EnvOptions:
    """Where it is told."""

    json: str = ""
    """Also write it to this file."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        if self.json and not Path(self.json).resolve().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {Path(self.json).resolve().parent}")


def main() -> int:
    """Parse the command line, print, and return the exit code."""
    with usage_errors():
        options = parse_options(EnvOptions(), sys.argv[1:], "python -m owt_mpi.env", DESCRIPTION)
        options.check()
    if launcher_rank():
        return 0
    facts = environment()
    print(text_of(facts), end="")
    if options.json:
        try:
            Path(options.json).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise CollectiveExit(DATA_ERROR, f"error: {error}") from None
    return 0


def environment() -> dict[str, Facts]:
    """Return the facts of every section. What fails is told in its place."""
    with ThreadPoolExecutor(len(SECTIONS)) as pool:
        return dict(zip(SECTIONS, pool.map(_told, SECTIONS.values()), strict=True))


def text_of(facts: dict[str, Facts]) -> str:
    """Return the facts as lines below their section's name; sections without any are left out."""
    lines = []
    for section, told in facts.items():
        lines += [section, *(f"  {name}: {' '.join(fact.split())}" for name, fact in told.items())] if told else []
    return "\n".join(lines) + "\n"


def _told(tell: Callable[[], Facts]) -> Facts:
    try:
        return tell()
    except Exception as error:  # a report of faults must not be stopped by one
        return {"cannot be told": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    run_command(main)
