"""Our training step for benchmarks, under mpirun or alone: on random images, or on shards through the loader."""

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.contestant import serve
from benchmarks.wide_alexnet import wide_alexnet
from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.config import Config, ModelOptions
from owt_mpi.data.loader import Batch
from owt_mpi.data_options import DataOptions
from owt_mpi.measure.step import make_trainer, random_batch
from owt_mpi.measure.timed_backend import TimedBackend
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.training.data import make_loaders, open_readers

CHANNELS = 3


def main() -> int:
    args = parse()
    comm = world()
    backend, reason = select_backend("onednn", compute_dtype(args.precision, "float32"))
    backend.set_num_threads(args.threads)
    spec = InputSpec(args.crop, CHANNELS, args.classes)
    builder = find_builder(args.model) if args.width == 1 else functools.partial(wide_alexnet, width=args.width)
    timed = TimedBackend(backend)
    computing: Backend = timed if args.convolutions else backend
    trainer = make_trainer(builder, spec, args.batch, Plan(comm.size, args.scheme), comm, computing, args.precision)
    if args.shards:
        batches = read_batches(args, comm, backend)
    else:
        batches = itertools.repeat(random_batch(spec, args.batch, comm.rank, backend, args.precision))
    numbers = itertools.count()

    def step() -> None:
        trainer.train_step(next(batches), next(numbers))

    def convolutions() -> float:
        timed.calls.clear()
        step()
        return sum(call.seconds for call in timed.calls if call.operation.startswith("conv2d"))

    about = {"owt_mpi": f"{reason}; NumPy {np.__version__}; {trainer.layout.describe()}"}
    serve(args.port, about, convolutions if args.convolutions else turn(step, args.lead, args.steps))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    for name in ("batch", "threads", "crop", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--scheme", default="c")
    parser.add_argument("--width", type=float, default=1, help="other than 1: alexnet that many times as wide")
    parser.add_argument("--shards", help="train on these, not on random images")
    parser.add_argument("--convolutions", action="store_true", help="the seconds are those of convolutions alone")
    parser.add_argument("--lead", type=int, default=0, help="steps of each turn that are not timed")
    parser.add_argument("--steps", type=int, default=1, help="steps of each turn that are, after these")
    parser.add_argument("port", type=int)
    return parser.parse_args()


def read_batches(args: argparse.Namespace, comm: Communicator, backend: Backend) -> Iterator[Batch]:
    """Yield batches of crops, mirrored and normalised, made ahead as in training, epoch after epoch."""
    options = DataOptions(data=args.shards, normalise="mean-std")
    config = Config(model=ModelOptions(crop=args.crop), data=options)
    reader, _ = open_readers(config, args.threads)
    loaders = make_loaders(config, reader, None, args.batch, comm, backend)
    for epoch in itertools.count():
        yield from loaders.train.epoch(epoch)


def turn(step: Callable[[], None], lead: int, steps: int) -> Callable[[], float]:
    """Return what takes the steps of a turn, and returns the seconds of one that is timed."""

    def take() -> float:
        for _ in range(lead):
            step()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) / steps

    return take


if __name__ == "__main__":
    run_command(main)
