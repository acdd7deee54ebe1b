"""Ranks that share a network against the serial program: every case trained, every parameter compared."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend
from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config, ParallelOptions, RunOptions
from owt_mpi.data.loader import Batch
from owt_mpi.parallel.layout import make_layout
from owt_mpi.proof.cases import Case
from owt_mpi.proof.problem import Problem
from owt_mpi.proof.serial_program import Trained, head_batch_of_rows, train_serially
from owt_mpi.trainer import NonFiniteLoss, Trainer

BUCKET_MIB = 0.25  # small: the gradients of small networks, too, leave in several buckets


class UnfitProblem(ValueError):
    """The serial program's training is not one to compare with. Raised on all ranks alike."""


@dataclass(frozen=True)
class Result:
    """What came out of a case. `differences` has each parameter's largest, over its elements and all ranks."""

    case: Case
    obstacle: str = ""  # why it is not possible; else ""
    differences: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)  # how far the serial program moved each parameter
    error: str = ""  # what ended the training, else ""
    passed: bool = False

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter with the largest difference, and that. One that is no number is larger than any other."""
        name = max(self.differences, key=lambda each: np.nan_to_num(self.differences[each], nan=np.inf))
        return name, self.differences[name]

    @property
    def verdict(self) -> str:
        """One word, or two."""
        return "not possible" if self.obstacle else "pass" if self.passed else "FAIL"


def prove(
    problem: Problem, cases: list[Case], world: Communicator, backend: Backend, tolerance: float
) -> Iterator[Result]:
    """Yield the result of each case; all ranks of `world` iterate.

    First those that are not possible; then those that share a serial program one after the other, so that one
    network's values are kept. UnfitProblem if the serial program diverges or hardly moves a parameter.
    """
    model = problem.new_model()
    possible: dict[bytes, list[Case]] = {}
    for case in cases:
        obstacle = case.obstacle(model, problem.batch_size // world.size)
        if obstacle:
            yield Result(case, obstacle)
            continue
        possible.setdefault(_head_batches(case, problem).tobytes(), []).append(case)
    for alike in possible.values():
        reference = _serial_reference(problem, _head_batches(alike[0], problem), world, backend)
        _check_moves(reference, problem, tolerance)
        for case in alike:
            yield _compare(problem, case, world, backend, reference, tolerance)


def _head_batches(case: Case, problem: Problem) -> np.ndarray:
    plan = case.plan
    return head_batch_of_rows(
        plan.scheme, plan.senders, plan.ranks_sharing_head, plan.num_ranks, problem.batch_size, case.update.passes
    )


def _serial_reference(problem: Problem, batches: np.ndarray, world: Communicator, backend: Backend) -> Trained:
    """Return what the serial program trained: its values on rank 0, how far they moved on all."""
    with np.errstate(over="ignore", invalid="ignore"):  # the values are looked at
        trained = train_serially(problem, batches, backend) if world.rank == 0 else Trained({}, {})
    moved, is_finite = world.all_gather_object((trained.moved, trained.is_finite))[0]
    if not is_finite:
        raise UnfitProblem(f"one rank alone diverges within {problem.num_steps} steps; lower --lr {problem.lr}")
    return Trained(trained.values, moved)


def _check_moves(reference: Trained, problem: Problem, tolerance: float) -> None:
    """Raise UnfitProblem if a parameter could be left out of the training without leaving the tolerance."""
    name = min(reference.moved, key=lambda each: reference.moved[each])
    if reference.moved[name] < 10 * tolerance:
        raise UnfitProblem(
            f"{problem.num_steps} steps move {name} by only {reference.moved[name]:.1e} of its largest element, which "
            f"proves nothing at a tolerance of {tolerance:g}; raise --lr {problem.lr:g} or --steps"
        )


def _compare(
    problem: Problem, case: Case, world: Communicator, backend: Backend, reference: Trained, tolerance: float
) -> Result:
    """Train a new network on the ranks of `world`, and compare it with the reference on rank 0."""
    trainer = Trainer(
        new_config(problem), problem.new_model(), make_layout(world, case.plan), backend, problem.batch_size
    )
    trainer.set_head_update(case.update)
    error = ""
    with np.errstate(over="ignore", invalid="ignore"):  # the loss of every step is looked at
        for step in range(problem.num_steps):
            try:
                trainer.train_step(own_part(problem, step, world), step)
            except NonFiniteLoss as failure:
                error = str(failure)
                break
        differences = {
            parameter.name: _difference(parameter, reference, world)
            for parameter in trainer.trunk.parameters() + trainer.head.parameters()
        }
    everyone = world.all_gather_object(differences)
    largest = {name: float(np.max([each[name] for each in everyone])) for name in differences}
    passed = not error and all(difference <= tolerance for difference in largest.values())
    return Result(case, differences=largest, moved=reference.moved, error=error, passed=passed)


def new_config(problem: Problem) -> Config:
    """Return what the trainer of `problem` is told."""
    return Config(
        optimizer=problem.optimizer,
        parallel=ParallelOptions(dtype=problem.dtype.name, bucket_mib=BUCKET_MIB),
        run=RunOptions(seed=problem.seed),
    )


def own_part(problem: Problem, step: int, world: Communicator) -> Batch:
    """Return this rank's share of a step's batch."""
    images, labels = problem.batch(step)
    num_rows = problem.batch_size // world.size
    rows = np.arange(world.rank * num_rows, (world.rank + 1) * num_rows)
    return Batch(images[rows], labels[rows], rows, rows, None)


def _difference(parameter: Parameter, reference: Trained, world: Communicator) -> float:
    """Return the difference of this rank's part of a parameter, relative to the whole one's largest element."""
    assert parameter.data is not None
    assert parameter.backend is not None
    own = parameter.backend.to_host(parameter.data)
    placeholder = np.empty(parameter.global_shape, own.dtype)
    whole = world.start_broadcast(reference.values.get(parameter.name, placeholder), root=0).wait()
    scale = float(np.abs(whole).max())
    return float(np.abs(own - part_of(whole, parameter)).max()) / (scale or 1.0)


def part_of(whole: np.ndarray, parameter: Parameter) -> np.ndarray:
    """Return the part of the whole parameter's values that this rank holds."""
    shard = parameter.shard
    return whole if shard is None else np.array_split(whole, shard.count, axis=shard.axis)[shard.index]
