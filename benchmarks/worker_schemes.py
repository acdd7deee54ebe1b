"""The ranks of the benchmark `schemes`: every scheme's network is alive in one job, and they take steps in turns."""

import argparse
import itertools
import json
import time
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.restricted import restricted
from owt_mpi.parallel.layout import Plan, SchemeName, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.summary import summarise
from owt_mpi.trainer import Trainer

SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)
CHANNELS, NUM_CLASSES = 3, 1000
DTYPE = np.dtype(np.float32)
WARM_UP_STEPS = 1


def build_model(model: str, crop: int, crosstalk: float) -> Model:
    return restricted(find_builder(model)(InputSpec(crop, CHANNELS, NUM_CLASSES)), crosstalk, blocks=8)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--crop", type=int, required=True)
    parser.add_argument("--crosstalk", type=float, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    comm = world()
    backend, reason = select_backend("auto", DTYPE)
    backend.set_num_threads(1)
    config, per_rank = Config(parallel=ParallelOptions(backend="auto")), args.images
    trainers, results = {}, {}
    for scheme in SCHEMES:
        model = build_model(args.model, args.crop, args.crosstalk)
        layout = make_layout(comm, Plan(comm.size, scheme))
        received = summarise(model, layout, per_rank, DTYPE).received_bytes
        trainers[scheme] = Trainer(config, model, layout, backend, per_rank * comm.size)
        results[scheme] = {"scheme": scheme, "backend": reason, "received_bytes": received}
    seconds = _measure(comm, trainers, _random_batch(per_rank, args.crop, comm.rank, backend), args.repeats)
    for scheme, result in results.items():
        result |= {"seconds": median(seconds[scheme]), "range": (min(seconds[scheme]), max(seconds[scheme]))}
    if comm.rank == 0:
        args.result.write_text(json.dumps(list(results.values())), encoding="utf-8")
    return 0


def _measure(
    comm: Any, trainers: dict[SchemeName, Trainer], batch: Batch, repeats: int
) -> dict[SchemeName, list[float]]:
    """Return the seconds of `repeats` steps of each trainer, those of the slowest rank, taken in turns."""
    seconds: dict[SchemeName, list[float]] = {scheme: [] for scheme in trainers}
    steps = itertools.count()
    for _ in range(WARM_UP_STEPS + repeats):
        step = next(steps)
        for scheme, trainer in trainers.items():
            comm.barrier()
            start = time.perf_counter()
            trainer.train_step(batch, step)
            seconds[scheme].append(max(comm.all_gather_object(time.perf_counter() - start)))
    return {scheme: times[WARM_UP_STEPS:] for scheme, times in seconds.items()}


def _random_batch(size: int, crop: int, rank: int, backend: Backend) -> Batch:
    rng = np.random.default_rng(rank)
    images = rng.standard_normal((size, crop, crop, CHANNELS), dtype=DTYPE)
    rows = rank * size + np.arange(size)
    return Batch(backend.from_host(images), rng.integers(0, NUM_CLASSES, size), rows, rows, None)


if __name__ == "__main__":
    run_command(main)
