"""The ways to spread a network over K ranks that are proved, one after the other, and which of them cannot be."""

from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal, get_args

from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, SchemeName
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.proof.problem import Problem

SchemeChoice = Literal["dp", "a", "b", "c", "d", "senders"]
ALL_SCHEMES: tuple[SchemeChoice, ...] = get_args(SchemeChoice)
RoundedDtype = Literal["float32", "float16", "bfloat16"]
ROUNDING = {"auto": 0.0, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half the spacing at 1


@dataclass(frozen=True)
class Case:
    """One way to spread a network over ranks, when its head is updated, and how copies of weights are kept the same.

    Where `fc_crosstalk` is below 1, the network is that of restricted connectivity.
    """

    plan: Plan
    update: HeadUpdate
    trunk_sync: TrunkSync = "all-reduce"
    wire_dtype: WireDtype = "auto"
    fc_crosstalk: float = 1.0

    @property
    def scheme(self) -> str:
        """The plan's scheme, in words."""
        return self.plan.scheme_words

    @property
    def update_words(self) -> str:
        """When the head is updated, as --head-update has it."""
        passes = self.update.passes
        return {0: "per-iteration", 1: "per-pass"}.get(passes, f"every-{passes}-passes")

    @property
    def extras(self) -> str:
        """What is not as it is by default, "" if nothing."""
        names = [name for name in (self.trunk_sync, self.wire_dtype) if name not in ("all-reduce", "auto")]
        return ", ".join(names + ([f"cross-talk {self.fc_crosstalk:g}"] if self.fc_crosstalk < 1 else []))

    @property
    def rounding(self) -> float:
        """By how much the wire makes a sum of gradients wrong, at most, relative to the sum of their magnitudes.

        Terms are rounded once; an all-reduce rounds their sum once more, for its way back.
        """
        unit = ROUNDING[self.wire_dtype]
        return unit if self.trunk_sync == "sharded" else 2 * unit + unit**2

    def problem(self, problem: Problem) -> Problem:
        """Return `problem` with this case's connectivity, and in a single step where the wire rounds.

        What one step rounds can be bounded; in the next, a unit whose sign it changed makes a difference that cannot.
        The step has the rate of all of them, to move parameters as far.
        """
        own = replace(problem, fc_crosstalk=self.fc_crosstalk)
        return replace(own, num_steps=1, lr=own.lr * own.num_steps) if self.wire_dtype != "auto" else own

    def obstacle(self, problem: Problem) -> str:
        """Return why the network of `problem` cannot be trained like this, "" if it can."""
        try:
            model = self.problem(problem).new_model()
            self.plan.check(model, problem.batch_size // self.plan.num_ranks)
            self.update.period(self.plan.make_scheme().num_passes(self.plan.ranks_sharing_head))
        except ValueError as error:
            return str(error)
        return ""


def list_cases(
    num_ranks: int,
    schemes: tuple[SchemeChoice, ...],
    group_sizes: tuple[int, ...],
    trunk_syncs: tuple[TrunkSync, ...] = ("all-reduce",),
    wire_dtypes: tuple[RoundedDtype, ...] = (),
    fc_crosstalks: tuple[float, ...] = (1.0,),
) -> list[Case]:
    """Return the cases, possible or not.

    With the first of `trunk_syncs` and `fc_crosstalks`: all `schemes` and `group_sizes`, each with all its periods of
    head updates. Without `group_sizes`: all that divide the ranks. Periods that are one and the same are listed once:
    with a single pass an iteration is a pass.

    The other `trunk_syncs`, `wire_dtypes` (with the `trunk_syncs` in turn) and the other `fc_crosstalks` have few cases
    each, chosen so that every exchange that they change takes place.
    """
    sizes = group_sizes or tuple(g for g in range(num_ranks, 1, -1) if num_ranks % g == 0)
    plans = [Plan(num_ranks, "dp")] if "dp" in schemes else []
    for size in sizes:
        for scheme in schemes:
            if scheme == "senders":
                between = [s for s in range(2, size) if size % s == 0]
                plans += [Plan(num_ranks, "c", size, senders) for senders in between]
            elif scheme != "dp":
                plans.append(Plan(num_ranks, _name(scheme), size))
    sync, crosstalk = trunk_syncs[0], fc_crosstalks[0]
    cases = [
        Case(plan, HeadUpdate(passes), sync, fc_crosstalk=crosstalk) for plan in plans for passes in _periods(plan)
    ]
    if plans:
        copies = _with_copies(plans)
        often = HeadUpdate(1 if 1 in _periods(copies) else 0)
        cases += [Case(copies, often, other, fc_crosstalk=crosstalk) for other in trunk_syncs[1:]]
        cases += [
            Case(copies, HeadUpdate(), other, wire, crosstalk)
            for wire, other in zip(wire_dtypes, cycle(trunk_syncs), strict=False)
        ]
        cases += [
            Case(plan, HeadUpdate(), sync, fc_crosstalk=other) for other in fc_crosstalks[1:] for plan in _widest(plans)
        ]
    return cases


def _with_copies(plans: list[Plan]) -> Plan:
    """Return how both the trunk and the head have copies to be kept the same.

    That is scheme c where it is among the plans, in the largest groups of which there are several, if there are any.
    """
    return max(
        [plan for plan in plans if plan.scheme == "c" and not plan.senders] or plans,
        key=lambda plan: (plan.ranks_sharing_head < plan.num_ranks, plan.ranks_sharing_head),
    )


def _widest(plans: list[Plan]) -> list[Plan]:
    """Return the plans that split a head over as many ranks as any does, and the one that does not split it."""
    most = max(plan.ranks_sharing_head for plan in plans)
    return [plan for plan in plans if plan.ranks_sharing_head in (1, most) and not plan.senders]


def _periods(plan: Plan) -> list[int]:
    """Return the periods to try: once an iteration (0), after every pass, after every second one."""
    num_passes = plan.make_scheme().num_passes(plan.ranks_sharing_head)
    return [0] + [passes for passes in (1, 2) if passes < num_passes]


def _name(scheme: SchemeChoice) -> SchemeName:
    assert scheme != "senders"
    return scheme
