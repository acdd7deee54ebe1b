"""One training step of ours beside PyTorch's, on the same cores: `python -m benchmarks.vs_pytorch --help`."""

import importlib.util
import json
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contestant import Command, Contestant
from benchmarks.machine import machine, under_mpirun
from owt_mpi.backends.threads import usable_cores

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: Literal["alexnet", "alexnet-owt"] = "alexnet"
    """The network, at 224 x 224 and 1000 classes; PyTorch has no fast LRN for alexnet-owt."""
    batch: int = 128
    """Images a step, of one process or of each rank."""
    threads: int = 0
    """Threads of the one process; 0: all cores that this command may use."""
    repeats: int = 10
    """Steps measured of each contestant, in turns, after two that are not."""
    ranks: int = 1
    """With 2 or more, also measure that many processes of one thread: our ranks under mpirun, PyTorch's DDP (gloo)."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """One comparison; more is better. A range is the slowest and the fastest step."""

    case: str
    ours: float
    theirs: float
    ratio: float
    unit: str
    ours_range: tuple[float, float]
    theirs_range: tuple[float, float]
    theirs_is: str
    repeats: int
    machine: str
    versions: dict[str, str]


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.vs_pytorch", description=__doc__)
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: PyTorch is not installed here; pip install 'owt_mpi[peers]', or pip install torch==2.13.0")
    for name in ("batch", "repeats", "ranks"):
        if getattr(options, name) < 1:
            sys.exit(f"error: --{name} is {getattr(options, name)}, but must be at least 1")
    threads = options.threads or usable_cores()
    rows = [measure(options, num_ranks=1, threads=threads)]
    if options.ranks > 1:
        rows.append(measure(options, num_ranks=options.ranks, threads=1))
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measure(options: Options, num_ranks: int, threads: int) -> Row:
    """Return the row of `num_ranks` processes of `threads` threads each; of PyTorch's two layouts the faster counts."""
    images = options.batch * num_ranks
    with ExitStack() as stack:
        ours, *theirs = [
            stack.enter_context(Contestant(name, commands, num_ranks))
            for name, commands in start_commands(options, num_ranks, threads).items()
        ]
        for round_index in range(WARM_UP_STEPS + options.repeats):
            for contestant in (ours, *theirs):
                seconds = contestant.step()
                if round_index >= WARM_UP_STEPS:
                    contestant.seconds.append(seconds)
        best = min(theirs, key=lambda contestant: median(contestant.seconds))
        ours_speed, theirs_speed = images / median(ours.seconds), images / median(best.seconds)
        return Row(
            case=f"{options.model}, {num_ranks} x {threads}, batch {num_ranks} x {options.batch}",
            ours=ours_speed,
            theirs=theirs_speed,
            ratio=ours_speed / theirs_speed,
            unit="images/s",
            ours_range=(images / max(ours.seconds), images / min(ours.seconds)),
            theirs_range=(images / max(best.seconds), images / min(best.seconds)),
            theirs_is=best.name,
            repeats=options.repeats,
            machine=machine(),
            versions={"python": platform.python_version(), **ours.about, **best.about},
        )


def start_commands(options: Options, num_ranks: int, threads: int) -> dict[str, list[Command]]:
    """Return what starts ours, then PyTorch with each memory layout, by the contestant's name."""
    common = ["--model", options.model, "--batch", str(options.batch), "--threads", str(threads)]
    env = {"OMP_NUM_THREADS": str(threads)}
    ours = [sys.executable, "-m", "benchmarks.worker_ours", *common]
    default = [sys.executable, "-m", "benchmarks.worker_pytorch", *common]
    channels_last = [*default, "--channels-last"]
    if num_ranks == 1:
        return {
            "owt_mpi": [(ours, env)],
            "channels-last": [(channels_last, env)],
            "default layout": [(default, env)],
        }
    return {
        "owt_mpi": [under_mpirun(ours, env, num_ranks)],
        "DDP, channels-last": _ddp(channels_last, env, num_ranks),
        "DDP, default layout": _ddp(default, env, num_ranks),
    }


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, and below what they were measured with."""
    table = Table(
        title=f"Training steps of owt_mpi and PyTorch in turns, median of {rows[0].repeats} (slowest-fastest)"
    )
    for column in ("model, processes x threads", "unit", "ours", "PyTorch", "ratio", "PyTorch's best"):
        table.add_column(column, justify="right" if column in ("ours", "PyTorch", "ratio") else "left", no_wrap=True)
    for row in rows:
        ours, theirs = _with_range(row.ours, row.ours_range), _with_range(row.theirs, row.theirs_range)
        table.add_row(row.case, row.unit, ours, theirs, f"{row.ratio:.2f}", row.theirs_is)
    console = Console(width=max(120, Console().width))  # a table cut to fit is no table
    console.print(table)
    for name, value in {"machine": rows[0].machine, **rows[0].versions}.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)


def _with_range(speed: float, limits: tuple[float, float]) -> str:
    return f"{speed:.1f} ({limits[0]:.1f}-{limits[1]:.1f})"


def _ddp(command: list[str], env: Mapping[str, str], num_ranks: int) -> list[Command]:
    """Return what starts the processes of a DDP job, each with the environment that torchrun would give it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {**env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)}
    return [(command, {**job, "RANK": str(rank)}) for rank in range(num_ranks)]


if __name__ == "__main__":
    main()
