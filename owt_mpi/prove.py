"""Show that K ranks train the network that one rank trains: `mpirun -n K python -m owt_mpi.prove --model NAME`."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.select import select_backend
from owt_mpi.backends.threads import default_num_threads
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit, agree, run_command
from owt_mpi.comm.placement import local_rank
from owt_mpi.comm.start import on_ranks
from owt_mpi.comm.transport import open_transport
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.proof import bitwise_report
from owt_mpi.proof.bitwise import BitwiseResult, NoReference, list_plans, prove_bitwise, train_one_rank
from owt_mpi.proof.cases import ALL_SCHEMES, RoundedDtype, SchemeChoice, list_cases
from owt_mpi.proof.compare import Result, UnfitProblem, prove
from owt_mpi.proof.fixed_order.pieces import Pieces
from owt_mpi.proof.problem import Problem, smallest_crop
from owt_mpi.proof.report import as_json, heading, row, totals
from owt_mpi.training.setup import agreed

DESCRIPTION = """Show that K ranks train the network that one rank trains.

Trains a network from one seed on random images, on K ranks in every scheme, group size and period of head updates, and
in a plain serial program, and compares all parameters; in a few of these also with sharded weight updates, gradients in
16 bits on the wire, and restricted connectivity. Exit code 0: all agree; 1: some do not.

With --bitwise all sums are made in one order, whatever the number of ranks, and 1, 2, 4, ... ranks must train
parameters that are equal to the last bit.

Examples:
  python -m owt_mpi.prove --virtual-ranks 8
  python -m owt_mpi.prove --virtual-ranks 8 --bitwise
  mpirun -n 4 python -m owt_mpi.prove --model alexnet-owt"""

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
CHANNELS = 3


@dataclass(frozen=True)
class ProveOptions:
    """What is proved."""

    model: str = "small"
    """The network: one that `python -m owt_mpi.train` knows, or your own as FILE.py:FUNCTION."""
    crop: int = 0
    """Side of the images; 0: the smallest of 16, 32, 64, 96, 128, 224 that the network accepts."""
    classes: int = 16
    """Number of classes."""
    images_per_rank: int = 0
    """Images a rank trains on in a step (n); 0: as many as ranks, so that all schemes are possible; with --bitwise the
    square of --pieces divided by the ranks."""
    steps: int = 5
    """Steps of training."""
    schemes: tuple[SchemeChoice, ...] = ALL_SCHEMES
    """Schemes to try; "senders" are those between b and c."""
    group_sizes: tuple[int, ...] = ()
    """Sizes of the groups that split the head; none given: all that divide the ranks."""
    bitwise: bool = False
    """Make all sums in fixed order, on 1, 2, 4, ... ranks, and compare every bit; the head is updated once an
    iteration. It is made on the host, whatever GPUs there are."""
    pieces: int = 8
    """Pieces that the batch, the FC layers' units and the classes are cut into for --bitwise: a power of two."""
    trunk_syncs: tuple[TrunkSync, ...] = ("all-reduce", "sharded")
    """How copies of weights are kept the same: the first in all cases, the others in one whose trunk and head have
    copies."""
    wire_dtypes: tuple[RoundedDtype, ...] = ("float16", "bfloat16")
    """Types in which gradients cross, rounded, each in one case and a single step, with the trunk-syncs in turn."""
    fc_crosstalks: tuple[float, ...] = (1.0, 0.25)
    """Connectivity of the FC layers, 1: dense: the first in all cases; the others in every scheme, with the largest
    group."""
    fc_blocks: int = 8
    """Blocks of the FC layers where that is below 1."""
    virtual_ranks: int = 0
    """Ranks as threads of this one process; 0: ranks are MPI's."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of weights and activations."""
    backend: Literal["auto", "cuda", "onednn", "reference"] = "auto"
    """What computes."""
    tolerance: float = 0.0
    """Largest difference that passes, relative to the parameter's largest element; 0: 1e-5 in float32, 1e-10 in
    float64. What the wire-dtype may round comes on top."""
    lr: float = 0.01
    """Learning rate for the whole batch; a head that learns from a share of it has that share of the rate."""
    seed: int = 1
    """Everything random is a function of it."""
    verbose: bool = False
    """Print every parameter's difference, not those of failures alone."""
    json: str = ""
    """Also write the table to this file as JSON."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        least = {
            "crop": 0,
            "classes": 2,
            "images_per_rank": 0,
            "steps": 1,
            "virtual_ranks": 0,
            "pieces": 1,
            "fc_blocks": 1,
        }
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self)):
            if name in least and value < least[name]:
                raise ValueError(f"--{name.replace('_', '-')} is {value}, but must be at least {least[name]}")
        if any(size < 1 for size in self.group_sizes):
            raise ValueError(f"--group-sizes are {self.group_sizes}, but must be at least 1")
        choices = {
            "schemes": ALL_SCHEMES,
            "trunk_syncs": get_args(TrunkSync),
            "fc_crosstalks": ("1 (dense)", "a share below 1"),
        }
        for name, some in choices.items():
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} names none; give some of {', '.join(some)}")
        if any(not 0 <= share <= 1 for share in self.fc_crosstalks):
            raise ValueError(f"--fc-crosstalks are {self.fc_crosstalks}, but must be shares between 0 and 1")
        for name, number in (("tolerance", self.tolerance), ("lr", self.lr)):
            if not (isfinite(number) and number >= 0):
                raise ValueError(f"--{name} is {number}, but must be a finite number, 0 or more")
        if self.json and not Path(self.json).resolve().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {Path(self.json).resolve().parent}")


def main() -> int:
    """Parse the command line, compare, and return the exit code."""
    with usage_errors():
        options = parse_options(ProveOptions(), sys.argv[1:], "python -m owt_mpi.prove", DESCRIPTION)
        options.check()
        find_builder(options.model)
    on_ranks(options.virtual_ranks, lambda world, sharing: run_proof(options, world, sharing))
    return 0


def run_proof(options: ProveOptions, world: Communicator, ranks_sharing_cores: int) -> None:
    """Compare all cases, and print the table on rank 0. All ranks of `world` call.

    `ranks_sharing_cores` of them run on this rank's cores. CollectiveExit with 1 if a case fails, with 2 if the
    options are wrong.
    """
    error: Exception | None = None
    try:
        if world.size == 1:
            raise ValueError(
                "one rank cannot be compared with one; start it with mpirun -n K, or give --virtual-ranks K"
            )
        if options.bitwise and options.backend == "cuda":
            raise ValueError(
                "--bitwise makes sums in fixed order on the host alone; choose --backend onednn or reference"
            )
        gpu_number = 0 if options.virtual_ranks else local_rank(world)  # virtual ranks share one
        backend, reason = select_backend(options.backend, options.dtype, gpu_number, on_host=options.bitwise)
        num_threads = 1 if options.bitwise else default_num_threads(ranks_sharing_cores)
        backend.set_num_threads(num_threads)
        problem = make_problem(options, world.size)
        model = problem.new_model()
    except (ValueError, OSError) as caught:
        error = caught
    agree(world, error, USAGE_ERROR)
    with agreed(world, USAGE_ERROR):
        transport = open_transport(world, backend, ParallelOptions())
    world = transport.comm  # moves the arrays of a GPU too
    tolerance = options.tolerance or TOLERANCES[options.dtype]
    facts = {
        "model": f"{model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters",
        "data": f"random images {problem.spec.crop} x {problem.spec.crop}, {options.classes} classes",
        "training": f"{options.steps} steps of {problem.batch_size} images, rate {options.lr:g}, seed {options.seed}",
        "ranks": f"{world.size}, {problem.batch_size // world.size} images a rank, threads a rank: {num_threads}",
        "backend": reason,
        "transport": transport.description,
        "tolerance": tolerance,
    }

    def say(text: str) -> None:
        if world.rank == 0:
            print(text, flush=True)

    for name, fact in facts.items():
        say(f"{name}: {fact}")
    if options.bitwise:
        _run_bitwise_proof(options, world, problem, backend, tolerance, facts, say)
        return
    say(f"\n{heading()}")
    results: list[Result] = []
    try:
        variants = (options.trunk_syncs, options.wire_dtypes, options.fc_crosstalks)
        cases = list_cases(world.size, options.schemes, options.group_sizes, *variants)
        for result in prove(problem, cases, world, backend, tolerance):
            say(row(result, options.verbose))
            results.append(result)
    except UnfitProblem as unfit:
        raise CollectiveExit(USAGE_ERROR, f"error: {unfit}") from None
    say(f"\n{totals(results)}")
    _finish(options, world, [result.verdict for result in results], as_json(facts, results))


def _run_bitwise_proof(
    options: ProveOptions,
    world: Communicator,
    problem: Problem,
    backend: Backend,
    tolerance: float,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    pieces = Pieces(options.pieces, problem.batch_size)
    obstacle = pieces.obstacle(problem.new_model(), world.size)
    if obstacle:
        raise CollectiveExit(USAGE_ERROR, f"error: {obstacle}")
    try:
        one_rank = train_one_rank(problem, pieces, world, backend, tolerance)
    except NoReference as reason:
        raise CollectiveExit(1, f"error: {reason}") from None
    facts["one rank"] = f"in fixed order, {one_rank.distance:.1e} from the plain serial program"
    say(f"one rank: {facts['one rank']}")
    say(f"\n{bitwise_report.heading()}")
    results: list[BitwiseResult] = []
    plans = list_plans(world.size, options.schemes, options.group_sizes)
    for result in prove_bitwise(problem, pieces, plans, world, backend, one_rank):
        say(bitwise_report.row(result, options.verbose))
        results.append(result)
    say(f"\n{bitwise_report.totals(results, one_rank.digest)}")
    verdicts = [result.verdict for result in results]
    _finish(options, world, verdicts, bitwise_report.as_json(facts, results, one_rank.digest))


def _finish(options: ProveOptions, world: Communicator, verdicts: list[str], table: dict[str, Any]) -> None:
    """Write the table where it is asked for. CollectiveExit unless some cases passed and none failed."""
    if options.json and world.rank == 0:
        Path(options.json).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    if "FAIL" in verdicts:
        raise CollectiveExit(1, f"error: {verdicts.count('FAIL')} of {len(verdicts)} cases do not equal one rank")
    if "pass" not in verdicts:
        raise CollectiveExit(USAGE_ERROR, "error: no case is possible; the table says why")


def make_problem(options: ProveOptions, num_ranks: int) -> Problem:
    """Return what is trained. ValueError if the network cannot be built."""
    builder = find_builder(options.model)
    crop = options.crop or smallest_crop(builder, CHANNELS, options.classes)
    return Problem(
        builder=builder,
        spec=InputSpec(crop, CHANNELS, options.classes),
        batch_size=_images_per_rank(options, num_ranks) * num_ranks,
        num_steps=options.steps,
        dtype=np.dtype(options.dtype),
        seed=options.seed,
        lr=options.lr,
        fc_blocks=options.fc_blocks,
    )


def _images_per_rank(options: ProveOptions, num_ranks: int) -> int:
    if options.images_per_rank:
        return options.images_per_rank
    return -(-(options.pieces**2) // num_ranks) if options.bitwise else num_ranks


if __name__ == "__main__":
    run_command(main)
