"""Ranks that share a network against one rank, to the last bit: every sum in fixed order, every parameter compared."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Backend
from owt_mpi.bad_steps import BadStepError
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.proof.cases import SchemeChoice, list_cases
from owt_mpi.proof.compare import new_config, own_part, part_of
from owt_mpi.proof.fixed_order.backend import FixedOrderBackend, UnsteadyOperation
from owt_mpi.proof.fixed_order.communicator import FixedOrderCommunicator
from owt_mpi.proof.fixed_order.head import in_fixed_order
from owt_mpi.proof.fixed_order.pieces import Pieces
from owt_mpi.proof.problem import Problem
from owt_mpi.proof.serial_program import train_serially
from owt_mpi.trainer import Trainer

Values = dict[str, np.ndarray]


class NoReference(ArithmeticError):
    """There is no training of one rank to compare with. Raised on all ranks alike."""


@dataclass(frozen=True)
class BitwiseResult:
    """What came out of a plan. `other_bits` has, for each parameter, how many elements of all ranks differ at the end.

    `first` names those that differ after step `first_step`, counted from 1, before which all were equal.
    """

    plan: Plan
    obstacle: str = ""  # why it is not possible; else ""
    other_bits: dict[str, int] = field(default_factory=dict)
    first_step: int = 0
    first: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One word, or two."""
        return "not possible" if self.obstacle else "FAIL" if self.first else "pass"


@dataclass(frozen=True)
class OneRank:
    """What one rank trained in fixed order: its values after every step, on rank 0, elsewhere none; and their digest.

    `distance` is the largest difference of a parameter from the plain serial program's, relative to its largest
    element.
    """

    steps: list[Values]
    digest: str
    distance: float


def train_one_rank(
    problem: Problem, pieces: Pieces, world: Communicator, backend: Backend, tolerance: float
) -> OneRank:
    """Return what rank 0 of `world` trains alone, in fixed order. All ranks call.

    NoReference if an operation gives other bits when it is called again, if the training diverges, or if the plain
    serial program trains something else.
    """
    error, digest, distance = "", "", 0.0
    steps: list[Values] = []
    if world.rank == 0:
        try:
            for parameters in _train(problem, pieces, Plan(1, "dp"), SerialCommunicator(), backend):
                steps.append({p.name: np.array(backend.to_host(p.data)) for p in parameters})
            digest, distance = _digest(steps[-1]), _distance(steps[-1], problem, backend)
        except (UnsteadyOperation, BadStepError) as reason:
            error = str(reason)
    error, digest, distance = world.all_gather_object((error, digest, distance))[0]
    if error:
        raise NoReference(error)
    if not distance <= tolerance:
        raise NoReference(
            f"one rank in fixed order trains parameters that are {distance:.1e} of their largest element from the "
            f"plain serial program's, but may be {tolerance:g}; lower --lr, or set --tolerance"
        )
    return OneRank(steps, digest, distance)


def prove_bitwise(
    problem: Problem, pieces: Pieces, plans: list[Plan], world: Communicator, backend: Backend, one_rank: OneRank
) -> Iterator[BitwiseResult]:
    """Yield the result of each plan; all ranks of `world` iterate.

    A plan of fewer ranks than `world` has is trained by the first of them; the others wait.
    """
    firsts: dict[int, Communicator] = {}
    for plan in plans:
        obstacle = _obstacle(plan, problem, pieces)
        if obstacle:
            yield BitwiseResult(plan, obstacle)
            continue
        takes_part = world.rank < plan.num_ranks
        if plan.num_ranks not in firsts:
            firsts[plan.num_ranks] = world.split(int(not takes_part), world.rank, f"first {plan.num_ranks} ranks")
        comm = firsts[plan.num_ranks]
        found = list(_other_bits(problem, pieces, plan, comm, backend, one_rank)) if takes_part else []
        yield _result(plan, world.all_gather_object(found)[0])


def list_plans(num_ranks: int, schemes: tuple[SchemeChoice, ...], group_sizes: tuple[int, ...]) -> list[Plan]:
    """Return the plans of list_cases for 2, 4, ... up to `num_ranks` ranks, each with the groups that divide them."""
    plans: dict[Plan, None] = {}  # in order, each once
    for ranks in (2**power for power in range(1, num_ranks.bit_length())):
        sizes = tuple(size for size in group_sizes if size <= ranks)
        if sizes or not group_sizes:
            plans.update(dict.fromkeys(case.plan for case in list_cases(ranks, schemes, sizes)))
    return list(plans)


def _obstacle(plan: Plan, problem: Problem, pieces: Pieces) -> str:
    model = problem.new_model()
    reason = pieces.obstacle(model, plan.num_ranks)
    if not reason:
        try:
            plan.check(model, problem.batch_size // plan.num_ranks)
        except ValueError as error:
            reason = str(error)
    return reason


def _train(
    problem: Problem, pieces: Pieces, plan: Plan, comm: Communicator, backend: Backend
) -> Iterator[list[Parameter]]:
    """Train a new network on the ranks of `comm`; yield its parameters after every step.

    One rank makes every call of the first step twice, see FixedOrderBackend.
    """
    rows_per_head = problem.batch_size // plan.num_ranks * plan.ranks_sharing_head
    model = in_fixed_order(problem.new_model(), pieces, rows_per_head)
    fixed = FixedOrderBackend(backend, pieces, problem.spec.num_classes, checks=plan.num_ranks == 1)
    layout = make_layout(FixedOrderCommunicator(comm), plan)
    trainer = Trainer(new_config(problem), model, layout, fixed, problem.batch_size)
    for step in range(problem.num_steps):
        trainer.train_step(own_part(problem, step, comm, backend), step)
        fixed.checks = False
        yield trainer.trunk.parameters() + trainer.head.parameters()


def _other_bits(
    problem: Problem, pieces: Pieces, plan: Plan, comm: Communicator, backend: Backend, one_rank: OneRank
) -> Iterator[dict[str, int]]:
    """Yield, after each step, in how many elements of each parameter the ranks differ from the one rank."""
    for step, parameters in enumerate(_train(problem, pieces, plan, comm, backend)):
        expected = one_rank.steps[step] if one_rank.steps else {}
        own = {}
        for p in parameters:
            whole = comm.start_broadcast(expected.get(p.name, np.empty(p.global_shape, p.dtype)), root=0).wait()
            own[p.name] = int(np.count_nonzero(_bits(backend.to_host(p.data)) != _bits(part_of(whole, p))))
        everyone = comm.all_gather_object(own)
        yield {name: sum(each[name] for each in everyone) for name in own}


def _result(plan: Plan, found: list[dict[str, int]]) -> BitwiseResult:
    for step, other_bits in enumerate(found, start=1):
        first = tuple(name for name, count in other_bits.items() if count)
        if first:
            return BitwiseResult(plan, "", found[-1], step, first)
    return BitwiseResult(plan, "", found[-1])


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


def _digest(values: Values) -> str:
    """Return the SHA-256 of all values, by name."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values[name]).tobytes())
    return digest.hexdigest()


def _distance(values: Values, problem: Problem, backend: Backend) -> float:
    plain = train_serially(problem, np.zeros(problem.batch_size, np.int64), backend).values
    return max(float(np.abs(values[name] - plain[name]).max() / (np.abs(plain[name]).max() or 1.0)) for name in plain)
