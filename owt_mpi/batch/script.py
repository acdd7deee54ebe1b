"""A batch script made from that of launch/: other values in its #SBATCH lines, and what it is told set in it."""

import re
import shlex
from collections.abc import Sequence
from importlib import resources

from owt_mpi.batch.options import BatchOptions

_DIRECTIVE = "#SBATCH --"
_START = "set -euo pipefail\n"
_MODULE = re.compile(r"^#   module load .*\n", re.MULTILINE)


def template(kind: str) -> str:
    """Return the script of launch/ for `kind`: train, prep or eval."""
    return resources.files("owt_mpi.batch").joinpath(f"{kind}.sbatch").read_text(encoding="utf-8")


def value(script: str, option: str) -> str:
    """Return what `script` asks of sbatch by `option`, "" if it does not."""
    found = re.search(rf"^{_DIRECTIVE}{option}=(.*)$", script, re.MULTILINE)
    return found[1] if found else ""


def number_of_ranks(options: BatchOptions) -> int:
    """Return how many ranks the job will have. ValueError if a node has more than GPUs, and has GPUs."""
    script = _with_directives(template(options.kind), options)
    ranks, gpus = int(value(script, "ntasks-per-node")), int(value(script, "gpus-per-node") or 0)
    if 0 < gpus < ranks:
        raise ValueError(
            f"{ranks} ranks on a node that has {gpus} GPUs: two ranks on one GPU are refused when the job starts; make "
            "--ranks-per-node and --gpus-per-node equal"
        )
    return int(value(script, "nodes")) * ranks


def write_script(options: BatchOptions, arguments: Sequence[str], command: str) -> str:
    """Return the script for a job that runs its command with `arguments`. `options` were checked.

    `command` is what it is written by, for a reader who wants another.
    """
    script = _with_directives(template(options.kind), options)
    first, rest = script.split("\n", 1)
    header = [
        first,
        f"# Written by: {command}",
        f"# It is launch/{options.kind}.sbatch with other values; `sbatch` and the name of this file submit it.",
        "#",
    ]
    script = "\n".join([*header, rest])
    assert script.count(_START) == 1, "the place for what the script is told"
    script = script.replace(_START, f"{_START}\n{_told(options)}{_given(arguments)}")
    if options.modules:
        loads = "".join(f"module load {shlex.quote(module)}\n" for module in options.modules)
        loads = f"set +u # `module` may look at variables that are not set\n{loads}set -u\n"
        script, count = _MODULE.subn(lambda _: loads, script)
        assert count == 1, "the place for modules"
    return script


def _with_directives(script: str, options: BatchOptions) -> str:
    """Return `script` with #SBATCH lines that say what `options` say."""
    ranks = options.ranks_per_node or max(options.gpus_per_node, 0)
    changed = {
        "job-name": options.job_name,
        "nodes": str(options.nodes or ""),
        "ntasks-per-node": str(ranks or ""),
        "cpus-per-task": str(options.cores_per_rank or ""),
        "mem-per-cpu": options.mem_per_core,
        "time": options.time,
        "signal": f"B:USR1@{options.signal_seconds}" if options.signal_seconds else "",
    }
    for option, text in changed.items():
        if text:
            script, count = re.subn(
                rf"^{_DIRECTIVE}{option}=.*$", f"{_DIRECTIVE}{option}={text}", script, flags=re.MULTILINE
            )
            assert count == 1, option
    if options.gpus_per_node > 0:
        script = script.replace(
            f"{_DIRECTIVE}gpus-per-node={value(script, 'gpus-per-node')}\n",
            f"{_DIRECTIVE}gpus-per-node={options.gpus_per_node}\n",
        )
    if options.gpus_per_node == 0:  # the line, with the words before it
        script = re.sub(rf"(^# .*\n)+{_DIRECTIVE}gpus-per-node=.*\n", "", script, flags=re.MULTILINE)
    added = {
        "account": (options.account, "The account that pays."),
        "partition": (options.partition, "The partition, which has its own limits of time and nodes."),
        "qos": (options.qos, "The quality of service, which may have its own priority and limits."),
        "constraint": (options.constraint, "Features that nodes must have."),
    }
    lines = [f"# {why}\n{_DIRECTIVE}{option}={text}\n" for option, (text, why) in added.items() if text]
    last = script.rindex(_DIRECTIVE)
    end = script.index("\n", last) + 1
    return script[:end] + "".join(lines) + script[end:]


def _told(options: BatchOptions) -> str:
    """Return the lines that set the variables by which the script is told what differs between clusters."""
    variables = {
        "OWT_MPI_LAUNCHER": "mpirun" if options.launcher == "mpirun" else "srun",
        "OWT_MPI_SRUN_MPI": options.launcher if options.launcher != "mpirun" else "",
        "OWT_MPI_MPIRUN_OPTIONS": options.mpirun_options,
        "OWT_MPI_ROOT": options.root,
        "OWT_MPI_VENV": options.venv,
        "OWT_MPI_CPU_BIND": options.cpu_bind,
        "OWT_MPI_NICS": " ".join(options.nics),
    }
    lines = [f"export {name}={shlex.quote(text)}\n" for name, text in variables.items() if text]
    return (
        "# What the lines below ask the environment for is said here alone.\n"
        f"unset {' '.join(variables)}\n{''.join(lines)}"
    )


def _given(arguments: Sequence[str]) -> str:
    """Return the lines that set the arguments."""
    return f'# The arguments; those that sbatch is given come after them.\nset -- {shlex.join(arguments)} "$@"\n'
