"""Steps as the planner foretells them from measured rates, beside steps that ran.

Each case measures this machine with its model and batch (measure/cluster.py), plans every scheme on it, and
runs it: `mpirun -n 2 python -m benchmarks.predicted`.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.measure.cluster import STEP_SECONDS, measure_cluster
from owt_mpi.measure.schemes import SCHEMES, measure_schemes
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.choice import PlanCase, step_timing
from owt_mpi.tables import Table, milliseconds, render


@dataclass(frozen=True)
class PredictedRow:
    """A scheme on K ranks: seconds a step foretold, measured (median), and the fastest and slowest step."""

    model: str
    images: int
    ranks: int
    scheme: str
    predicted: float
    measured: float
    fastest: float
    slowest: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def rows_of(
    model: str, crop: int, classes: int, images: int, comm: Communicator, repeats: int, seconds: float = STEP_SECONDS
) -> list[PredictedRow]:
    """Return a row for each scheme on one rank and on all. All ranks call; rank 0 has the rows."""
    builder, spec = find_builder(model), InputSpec(crop, 3, classes)
    backend, _ = select_backend("auto", np.dtype(np.float32))
    backend.set_num_threads(1)
    rows: list[PredictedRow] = []
    for num_ranks in sorted({1, comm.size}):
        cluster = None
        if num_ranks == comm.size:
            cluster = measure_cluster(builder, spec, images, comm, backend, seconds=seconds)
        elif comm.rank == 0:  # alone, as the one rank will train
            cluster = measure_cluster(builder, spec, images, SerialCommunicator(), backend, seconds=seconds)
        comm.barrier()
        schemes = SCHEMES if num_ranks > 1 else ("dp",)
        for found in measure_schemes(builder, spec, images, num_ranks, comm, backend, repeats, schemes=schemes):
            if found.why_not or cluster is None:
                continue
            predicted = step_timing(PlanCase(builder, spec, images, cluster), Plan(num_ranks, found.scheme)).seconds
            took = (found.seconds, found.fastest, found.slowest)
            rows.append(PredictedRow(model, images, num_ranks, found.scheme, predicted, *took))
    return rows


def table(rows: list[PredictedRow]) -> Table:
    lines = [
        [
            row.model,
            str(row.images),
            str(row.ranks),
            row.scheme,
            milliseconds(row.predicted),
            f"{milliseconds(row.measured)} ({milliseconds(row.fastest)}-{milliseconds(row.slowest)})",
            f"{row.error:+.1%}",
        ]
        for row in rows
    ]
    headings = ("model", "n", "K", "scheme", "predicted ms", "measured ms (range)", "error")
    within = sum(abs(row.error) <= 0.15 for row in rows)
    return Table("Steps predicted and measured", headings, lines, [f"{within} of {len(rows)} within 15 %. {machine()}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="alexnet-owt")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=[16, 32], help="images a rank, one case each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    comm: Communicator = world()
    rows = [
        row
        for images in args.images
        for row in rows_of(args.model, args.crop, args.classes, images, comm, args.repeats)
    ]
    if comm.rank == 0:
        print(render(table(rows), args.markdown), end="")
        if args.json:
            Path(args.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main)
