"""How much of the exchange hides under computing: `mpirun -n 2 python -m benchmarks.overlap`."""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np

from owt_mpi.accounts import Accounts, wire_lines
from owt_mpi.backends.select import select_backend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import run_command
from owt_mpi.comm.ledger import Flow, Flows, Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.mpi import world
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer

NUM_CLASSES = 1000
WARM_UP_STEPS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="alexnet-owt", choices=MODELS)
    parser.add_argument("--scheme", default="c", choices=("dp", "a", "b", "c", "d"))
    parser.add_argument("--crop", type=int, default=224, help="side of the images")
    parser.add_argument("--images", type=int, default=32, help="images a rank")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--bucket-mib", type=float, default=4.0)
    parser.add_argument("--backend", default="auto", choices=("auto", "onednn", "reference"))
    parser.add_argument("--threads", type=int, default=1, help="threads a rank computes with")
    parser.add_argument("--json", help="also write the flows of all ranks together, and the settings, to this file")
    args = parser.parse_args()
    comm = world()
    ranks, step_seconds = measure(comm, args)
    if comm.rank:
        return 0
    print(
        f"{args.model}, {args.crop} x {args.crop}, {args.images} images a rank, {comm.size} ranks, scheme "
        f"{args.scheme}: {step_seconds * 1e3:.0f} ms a step, mean of {args.steps}"
    )
    print("\n".join(wire_lines(ranks, args.steps)))
    shares = {name: hidden_share(ranks, labels) for name, labels in EXCHANGES.items()}
    for name, share in shares.items():
        print(f"hidden of {name}: {share:.0%}")
    if args.json:
        content = {**vars(args), "ranks": comm.size, "step_seconds": step_seconds, "hidden": shares}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


EXCHANGES = {
    "activations and their gradients at the boundary": {("boundary", "activations"), ("boundary", "gradients")},
    "the trunk's gradients": {("trunk", "")},
    "all exchanges": {("", "")},
}


def measure(comm: Communicator, args: argparse.Namespace) -> tuple[list[Flows], float]:
    """Return every rank's flows of the timed steps, and the mean seconds of a step on this rank."""
    ledger = Ledger()
    metered = MeteredCommunicator(comm, ledger)
    backend, _ = select_backend(args.backend, np.dtype(np.float32))
    backend.set_num_threads(args.threads)
    model = MODELS[args.model](InputSpec(args.crop, 3, NUM_CLASSES))
    plan = Plan(comm.size, args.scheme)
    plan.check(model, args.images)
    config = Config(parallel=ParallelOptions(bucket_mib=args.bucket_mib))
    trainer = Trainer(config, model, make_layout(metered, plan), backend, args.images * comm.size)
    rng = np.random.default_rng(comm.rank)
    images = rng.standard_normal((args.images, args.crop, args.crop, 3), dtype=np.float32)
    rows = comm.rank * args.images + np.arange(args.images)
    batch = Batch(backend.from_host(images), rng.integers(0, NUM_CLASSES, args.images), rows, rows, None)
    numbers = itertools.count()
    for _ in range(WARM_UP_STEPS):
        trainer.train_step(batch, next(numbers))
    comm.barrier()
    accounts = Accounts(ledger, lambda: 0.0)
    start = time.perf_counter()
    for _ in range(args.steps):
        trainer.train_step(batch, next(numbers))
    seconds = (time.perf_counter() - start) / args.steps
    accounts.close_window(args.steps, comm)
    return comm.all_gather_object(accounts.flows), seconds


def hidden_share(ranks: list[Flows], places: set[tuple[str, str]]) -> float:
    """Return the hidden share of the flows at these (label, payload), where "" is any."""
    total = Flow()
    for flows in ranks:
        for key, flow in flows.items():
            if any(label in ("", key.label) and carried in ("", key.payload) for label, carried in places):
                total = total + flow
    return total.hidden_share


if __name__ == "__main__":
    run_command(main)
