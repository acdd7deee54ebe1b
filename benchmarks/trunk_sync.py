"""The ways to synchronise and update a trunk, in turns: `mpirun -n 2 python -m benchmarks.trunk_sync --help`."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit, run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.nn.init import initialise
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.optim import MomentumSGD
from owt_mpi.parallel.grad_sync import GradSync
from owt_mpi.parallel.weight_sync import TrunkSync, make_weight_sync, sync_bytes
from owt_mpi.parallel.wire_format import WireDtype

WARM_UP_STEPS = 2
FLOAT32 = np.dtype(np.float32)
KINDS: tuple[TrunkSync, ...] = ("all-reduce", "sharded")
WIRE_DTYPES: tuple[WireDtype, ...] = ("auto", "bfloat16", "float16")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "alexnet-owt"
    """The network whose trunk it is; its gradients are random numbers."""
    bucket_mib: float = 4.0
    """Size of the buckets."""
    repeats: int = 30
    """Steps measured of each way, in turns, after two that are not."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """One way to synchronise: seconds from complete gradients to new weights, of the slowest rank."""

    trunk_sync: TrunkSync
    wire_dtype: WireDtype
    ranks: int
    weights: int
    milliseconds: float  # median
    milliseconds_range: tuple[float, float]
    received_bytes: int  # by a rank a step, ring collectives
    momentum_bytes: int  # held by a rank
    repeats: int
    machine: str
    python: str
    numpy: str


class Contestant:
    """The trunk's weights, with random gradients and one way to synchronise them."""

    def __init__(
        self, options: Options, kind: TrunkSync, wire_dtype: WireDtype, comm: Communicator, backend: Backend
    ) -> None:
        self.kind, self.wire_dtype, self.seconds = kind, wire_dtype, list[float]()
        self.parameters = find_builder(options.model)(InputSpec(224, 3, 1000)).trunk.parameters()
        self._comm, self._optimizers = comm, list[MomentumSGD]()
        initialise(self.parameters, backend, seed=1, dtype=FLOAT32)
        self._gradients = [
            np.random.default_rng((comm.rank, index)).standard_normal(p.shape, np.float32) / 1000
            for index, p in enumerate(self.parameters)
        ]
        self._sync: GradSync[Any] = make_weight_sync(
            kind,
            self.parameters,
            comm,
            backend,
            partial(self._make_sgd, backend),
            int(options.bucket_mib * 2**20),
            wire_dtype,
        )

    @property
    def momentum_bytes(self) -> int:
        return sum(v.nbytes for optimizer in self._optimizers for v in optimizer.velocities)

    def step(self) -> float:
        """Return the seconds from complete gradients to new weights, on the slowest rank."""
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.accumulate_grad(gradient)
        self._comm.barrier()
        start = time.perf_counter()
        self._sync.start_all()
        self._sync.start_step(0.01).wait()
        return max(self._comm.all_gather_object(time.perf_counter() - start))

    def _make_sgd(self, backend: Backend, parameters: list[Parameter]) -> MomentumSGD:
        self._optimizers.append(MomentumSGD(parameters, backend))
        return self._optimizers[-1]


def main() -> int:
    options = _parse()
    from owt_mpi.comm.mpi import world  # MPI starts here, not where --help is all that is asked

    comm = world()
    if comm.size == 1:
        raise CollectiveExit(USAGE_ERROR, "error: one rank exchanges nothing; mpirun -n 2 python -m ...")
    backend, reason = select_backend("auto", FLOAT32)
    backend.set_num_threads(1)
    contestants = [
        Contestant(options, kind, wire_dtype, comm.dup(f"{kind} {wire_dtype}"), backend)
        for wire_dtype, kind in product(WIRE_DTYPES, KINDS)
    ]
    for round_index in range(WARM_UP_STEPS + options.repeats):
        for contestant in contestants:
            seconds = contestant.step()
            if round_index >= WARM_UP_STEPS:
                contestant.seconds.append(seconds)
    if comm.rank == 0:
        rows = [_row(contestant, comm.size, options) for contestant in contestants]
        print_table(rows, options, reason)
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def print_table(rows: Sequence[Row], options: Options, backend: str) -> None:
    """Print the rows, and below what they were measured with."""
    table = Table(
        title=f"Trunk of {options.model}, {rows[0].weights:,} weights, {rows[0].ranks} ranks: from gradients to new "
        f"weights, in turns, median of {options.repeats} (fastest-slowest)"
    )
    table.add_column("--trunk-sync")
    table.add_column("--wire-dtype")
    for column in ("ms", "received MB", "momentum MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        fastest, slowest = row.milliseconds_range
        table.add_row(
            row.trunk_sync,
            row.wire_dtype,
            f"{row.milliseconds:.1f} ({fastest:.1f}-{slowest:.1f})",
            f"{row.received_bytes / 1e6:.2f}",
            f"{row.momentum_bytes / 1e6:.2f}",
        )
    console = Console(width=max(120, Console().width))  # a table cut to fit is no table
    console.print(table)
    for name, value in {"machine": rows[0].machine, "backend": backend, "python": rows[0].python}.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)


def _row(contestant: Contestant, num_ranks: int, options: Options) -> Row:
    num_weights = sum(prod(p.shape) for p in contestant.parameters)
    milliseconds = [1e3 * seconds for seconds in contestant.seconds]
    return Row(
        trunk_sync=contestant.kind,
        wire_dtype=contestant.wire_dtype,
        ranks=num_ranks,
        weights=num_weights,
        milliseconds=median(milliseconds),
        milliseconds_range=(min(milliseconds), max(milliseconds)),
        received_bytes=sum(sync_bytes(num_weights, num_ranks, contestant.kind, contestant.wire_dtype, FLOAT32)),
        momentum_bytes=contestant.momentum_bytes,
        repeats=options.repeats,
        machine=machine(),
        python=platform.python_version(),
        numpy=np.__version__,
    )


def _parse() -> Options:
    """Return the options; what is wrong with them is said by rank 0 alone."""
    try:
        with contextlib.ExitStack() as stack:
            if launcher_rank():
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(silence))
                stack.enter_context(contextlib.redirect_stderr(silence))
            options = tyro.cli(Options, prog="python -m benchmarks.trunk_sync", description=__doc__)
    except SystemExit as end:
        raise CollectiveExit(end.code if isinstance(end.code, int) else USAGE_ERROR, "") from None
    if options.repeats < 1 or not options.bucket_mib > 0:
        raise CollectiveExit(USAGE_ERROR, "error: --repeats must be at least 1, and --bucket-mib above 0")
    return options


if __name__ == "__main__":
    run_command(main)
