"""What checkpoints cost a training: `mpirun -n 2 python -m benchmarks.checkpoint_cost`.

Windows of as many steps as lie between two checkpoints, in turns without one and with one that is started before the
first step and is on disk after the last; random images, no loader. The first window of each kind is not counted.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.machine import machine
from owt_mpi.backends.select import select_backend
from owt_mpi.checkpoint.saver import CheckpointSaver
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.measure.step import make_trainer, random_batch
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan
from owt_mpi.tables import Table, render
from owt_mpi.training.checkpoints import DataState, Position, RunCheckpoints, parse_every

NUM_CLASSES = 1000
CROP = 224


@dataclass(frozen=True)
class Row:
    """Seconds of the slowest rank, medians over windows. `stopped_seconds`: the training stands still in `save`."""

    model: str
    ranks: int
    images_per_rank: int
    every_steps: int
    checkpoint_bytes: int
    step_seconds: float
    step_seconds_with: float
    stopped_seconds: float
    windows: int

    @property
    def cost(self) -> float:
        """The share of step time that checkpoints add."""
        return self.step_seconds_with / self.step_seconds - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="alexnet-owt", choices=MODELS)
    parser.add_argument("--scheme", default="c", choices=("dp", "a", "b", "c", "d"))
    parser.add_argument("--images", type=int, nargs="+", default=[16, 128], help="images a rank")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--windows", type=int, default=3, help="windows of each kind that are measured")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the checkpoints go for the while")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    comm = world()
    folder = comm.all_gather_object(tempfile.mkdtemp(dir=args.folder) if comm.rank == 0 else "")[0]
    try:
        rows = [measure(comm, args, images, Path(folder) / str(images)) for images in args.images]
    finally:
        comm.barrier()
        if comm.rank == 0:
            shutil.rmtree(folder)
    if comm.rank == 0:
        print_table(rows)
        if args.json:
            kept = [{**asdict(row), "cost": row.cost, "machine": machine()} for row in rows]
            args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(comm: Communicator, args: argparse.Namespace, images: int, folder: Path) -> Row:
    """Return what checkpoints in `folder` cost at so many images a rank. All ranks call."""
    backend, _ = select_backend("auto", np.dtype(np.float32))
    backend.set_num_threads(1)
    spec = InputSpec(CROP, 3, NUM_CLASSES)
    trainer = make_trainer(MODELS[args.model], spec, images, Plan(comm.size, args.scheme), comm, backend)
    batch = random_batch(spec, images, comm.rank, backend)
    saver = CheckpointSaver(folder, comm, keep=1, config={}, program="benchmark")
    data = DataState(images * comm.size, 0, 1, "none", "drop")
    checkpoints = RunCheckpoints(saver, parse_every(str(args.every)), data)
    step = 0

    def window(with_checkpoint: bool) -> tuple[float, float]:
        """Return the seconds of a window, and those of them in which this rank stood still."""
        nonlocal step
        comm.barrier()
        start, stopped = time.perf_counter(), 0.0
        if with_checkpoint:
            checkpoints.save(trainer, Position(0, step, step), None)
            stopped = time.perf_counter() - start
        for _ in range(args.every):
            step += 1
            trainer.train_step(batch, step)
        before = time.perf_counter()
        checkpoints.finish()
        stopped += time.perf_counter() - before
        comm.barrier()
        return time.perf_counter() - start, stopped

    seconds: dict[bool, list[float]] = {False: [], True: []}
    stops = []
    for _ in range(args.windows + 1):
        for kind in (False, True):
            taken, stopped = np.max(comm.all_gather_object(window(kind)), axis=0).tolist()
            seconds[kind].append(taken / args.every)
            if kind:
                stops.append(stopped)
    without, with_one = (median(seconds[kind][1:]) for kind in (False, True))
    (path,) = folder.glob("step-*") if comm.rank == 0 else (None,)
    size = sum(file.stat().st_size for file in path.iterdir()) if path is not None else 0
    return Row(
        args.model, comm.size, images, args.every, size, without, with_one, median(stops[1:]), args.windows
    )  # fmt: skip


def print_table(rows: list[Row]) -> None:
    """Print a line for each number of images a rank."""
    table = Table(
        f"A checkpoint every {rows[0].every_steps} steps of {rows[0].model}, {rows[0].ranks} ranks, on {machine()}; "
        f"medians of {rows[0].windows} windows each, in turns",
        ("images a rank", "s a step", "with checkpoints", "cost", "of it standing still, s", "MB"),
        [
            [
                str(row.images_per_rank), f"{row.step_seconds:.3f}", f"{row.step_seconds_with:.3f}", f"{row.cost:.1%}",
                f"{row.stopped_seconds:.2f}", f"{row.checkpoint_bytes / 1e6:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    print(render(table, markdown=False), end="")


if __name__ == "__main__":
    run_command(main)
