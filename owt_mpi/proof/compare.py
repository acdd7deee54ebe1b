"""Ranks that share a network against the serial program: every case trained, every parameter compared."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend
from owt_mpi.bad_steps import BadStepError
from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config, RunOptions
from owt_mpi.data.loader import Batch
from owt_mpi.parallel.layout import make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.proof.cases import Case
from owt_mpi.proof.problem import Problem
from owt_mpi.proof.serial_program import Trained, head_batch_of_rows, train_serially, update_magnitudes
from owt_mpi.trainer import Trainer

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
    tolerances: dict[str, float] = field(default_factory=dict)  # the largest difference of each parameter that passes
    passed: bool = False

    @property
    def worst(self) -> str:
        """The parameter whose difference is largest for its tolerance. One that is no number is larger than any."""
        return max(
            self.differences,
            key=lambda each: np.nan_to_num(self.differences[each], nan=np.inf) / self.tolerances[each],
        )

    @property
    def verdict(self) -> str:
        """One word, or two."""
        return "not possible" if self.obstacle else "pass" if self.passed else "FAIL"


@dataclass(frozen=True)
class _Reference:
    """What a serial program trained: `values` are its own on rank `root` alone, the rest is the same on all ranks."""

    root: int
    values: dict[str, np.ndarray]
    moved: dict[str, float]
    updates: dict[str, float]  # how large the first update could be, where the wire rounds


def prove(
    problem: Problem, cases: list[Case], world: Communicator, backend: Backend, tolerance: float
) -> Iterator[Result]:
    """Yield the result of each case; all ranks of `world` iterate.

    First those that are not possible; then those that share a serial program one after the other. The ranks run serial
    programs side by side, so that each keeps one network's values. UnfitProblem if a serial program diverges or hardly
    moves a parameter.
    """
    possible: dict[tuple[float, bool, bytes], list[Case]] = {}
    for case in cases:
        obstacle = case.obstacle(problem)
        if obstacle:
            yield Result(case, obstacle)
            continue
        alike_in = (case.fc_crosstalk, case.wire_dtype != "auto", _head_batches(case, problem).tobytes())
        possible.setdefault(alike_in, []).append(case)
    groups = list(possible.values())
    for first in range(0, len(groups), world.size):
        now = groups[first : first + world.size]
        references = _serial_references(problem, [alike[0] for alike in now], world, backend)
        for alike, reference in zip(now, references, strict=True):
            _check_moves(reference, problem, tolerance)
            for case in alike:
                yield _compare(case.problem(problem), case, world, backend, reference, tolerance)


def _head_batches(case: Case, problem: Problem) -> np.ndarray:
    plan = case.plan
    return head_batch_of_rows(
        plan.scheme, plan.senders, plan.ranks_sharing_head, plan.num_ranks, problem.batch_size, case.update.passes
    )


def _serial_references(problem: Problem, cases: list[Case], world: Communicator, backend: Backend) -> list[_Reference]:
    """Return what serial programs trained, that of case r, at most as many as ranks, trained by rank r."""
    trained, updates = Trained({}, {}), dict[str, float]()
    if world.rank < len(cases):
        case = cases[world.rank]
        own = case.problem(problem)
        with np.errstate(over="ignore", invalid="ignore"):  # the values are looked at
            trained = train_serially(own, _head_batches(case, own), backend)
            if case.rounding:
                updates = update_magnitudes(own, trained, world.size, backend)
    everyone = world.all_gather_object((trained.moved, updates, trained.is_finite))[: len(cases)]
    if not all(is_finite for _, _, is_finite in everyone):
        raise UnfitProblem(f"one rank alone diverges within {problem.num_steps} steps; lower --lr {problem.lr}")
    return [_Reference(root, trained.values, moved, updates) for root, (moved, updates, _) in enumerate(everyone)]


def _check_moves(reference: _Reference, problem: Problem, tolerance: float) -> None:
    """Raise UnfitProblem if a parameter could be left out of the training without leaving the tolerance."""
    name = min(reference.moved, key=lambda each: reference.moved[each])
    if reference.moved[name] < 10 * tolerance:
        raise UnfitProblem(
            f"training moves {name} by only {reference.moved[name]:.1e} of its largest element, which proves nothing "
            f"at a tolerance of {tolerance:g}; raise --lr {problem.lr:g} or --steps {problem.num_steps}"
        )


def _compare(
    problem: Problem, case: Case, world: Communicator, backend: Backend, reference: _Reference, tolerance: float
) -> Result:
    """Train a new network on the ranks of `world`, and compare it with the reference on its rank."""
    allowed = {name: tolerance + case.rounding * reference.updates.get(name, 0.0) for name in reference.moved}
    config = new_config(problem)
    exchange = replace(config.parallel, trunk_sync=case.trunk_sync, wire_dtype=case.wire_dtype)
    trainer = Trainer(
        replace(config, parallel=exchange),
        problem.new_model(),
        make_layout(world, case.plan),
        backend,
        problem.batch_size,
    )
    trainer.set_head_update(case.update)
    error = ""
    with np.errstate(over="ignore", invalid="ignore"):  # the loss of every step is looked at
        for step in range(problem.num_steps):
            try:
                trainer.train_step(own_part(problem, step, world, backend), step)
            except BadStepError as failure:
                error = str(failure)
                break
        differences = {
            parameter.name: _difference(parameter, reference, world)
            for parameter in trainer.trunk.parameters() + trainer.head.parameters()
        }
    everyone = world.all_gather_object(differences)
    largest = {name: float(np.max([each[name] for each in everyone])) for name in differences}
    passed = not error and all(difference <= allowed[name] for name, difference in largest.items())
    return Result(case, "", largest, reference.moved, error, allowed, passed)


def new_config(problem: Problem) -> Config:
    """Return what the trainer of `problem` is told."""
    return Config(
        optimizer=problem.optimizer,
        parallel=ParallelOptions(dtype=problem.dtype.name, bucket_mib=BUCKET_MIB),
        run=RunOptions(seed=problem.seed),
    )


def own_part(problem: Problem, step: int, world: Communicator, backend: Backend) -> Batch:
    """Return this rank's share of a step's batch, its images on the device of `backend`."""
    images, labels = problem.batch(step)
    num_rows = problem.batch_size // world.size
    rows = np.arange(world.rank * num_rows, (world.rank + 1) * num_rows)
    return Batch(backend.from_host(images[rows]), labels[rows], rows, rows, None)


def _difference(parameter: Parameter, reference: _Reference, world: Communicator) -> float:
    """Return the difference of this rank's part of a parameter, relative to the whole one's largest element."""
    assert parameter.data is not None
    assert parameter.backend is not None
    own = parameter.backend.to_host(parameter.data)
    placeholder = np.empty(parameter.global_shape, own.dtype)
    values = reference.values[parameter.name] if world.rank == reference.root else placeholder
    whole = world.start_broadcast(values, root=reference.root).wait()
    scale = float(np.abs(whole).max())
    return float(np.abs(own - part_of(whole, parameter)).max()) / (scale or 1.0)


def part_of(whole: np.ndarray, parameter: Parameter) -> np.ndarray:
    """Return the part of the whole parameter's values that this rank holds."""
    shard = parameter.shard
    return whole if shard is None else np.array_split(whole, shard.count, axis=shard.axis)[shard.index]
