"""Our side of vs_pytorch: the training step that `owt_mpi.train` runs, on random images, under mpirun or alone."""

import argparse
import itertools

import numpy as np

from benchmarks.contestant import serve
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer

CROP, CHANNELS, NUM_CLASSES = 224, 3, 1000


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    comm = world()
    config = Config(parallel=ParallelOptions(backend="onednn"))
    backend, reason = select_backend("onednn", np.float32)
    backend.set_num_threads(args.threads)
    model = find_builder(args.model)(InputSpec(CROP, CHANNELS, NUM_CLASSES))
    layout = make_layout(comm, Plan(comm.size))
    trainer = Trainer(config, model, layout, backend, args.batch * comm.size)
    batch = _random_batch(args.batch, comm.rank)
    steps = itertools.count()
    about = {"ours": f"{reason}; NumPy {np.__version__}; {layout.describe()}"}
    serve(args.port, about, lambda: trainer.train_step(batch, next(steps)))
    return 0


def _random_batch(size: int, rank: int) -> Batch:
    rng = np.random.default_rng(rank)
    images = rng.standard_normal((size, CROP, CROP, CHANNELS), dtype=np.float32)
    rows = rank * size + np.arange(size)
    return Batch(images, rng.integers(0, NUM_CLASSES, size), rows, rows, None)


if __name__ == "__main__":
    run_command(main)
