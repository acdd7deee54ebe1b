"""The ways to spread a network over K ranks that are proved, one after the other, and which of them cannot be."""

from dataclasses import dataclass
from typing import Literal, get_args

from owt_mpi.nn.model import Model
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, SchemeName

SchemeChoice = Literal["dp", "a", "b", "c", "d", "senders"]
ALL_SCHEMES: tuple[SchemeChoice, ...] = get_args(SchemeChoice)


@dataclass(frozen=True)
class Case:
    """One way to spread a network over ranks, and when its head is updated."""

    plan: Plan
    update: HeadUpdate

    @property
    def scheme(self) -> str:
        """The plan's scheme, in words."""
        return self.plan.scheme_words

    @property
    def update_words(self) -> str:
        """When the head is updated, as --head-update has it."""
        passes = self.update.passes
        return {0: "per-iteration", 1: "per-pass"}.get(passes, f"every-{passes}-passes")

    def obstacle(self, model: Model, images_per_rank: int) -> str:
        """Return why `model` cannot be trained like this, "" if it can."""
        try:
            self.plan.check(model, images_per_rank)
            self.update.period(self.plan.make_scheme().num_passes(self.plan.ranks_sharing_head))
        except ValueError as error:
            return str(error)
        return ""


def list_cases(num_ranks: int, schemes: tuple[SchemeChoice, ...], group_sizes: tuple[int, ...]) -> list[Case]:
    """Return the cases of `schemes` and `group_sizes`, possible or not, each with all its periods of head updates.

    Without `group_sizes`: all that divide the ranks. Periods that are one and the same are listed once: with a single
    pass an iteration is a pass.
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
    return [Case(plan, HeadUpdate(passes)) for plan in plans for passes in _periods(plan)]


def _periods(plan: Plan) -> list[int]:
    """Return the periods to try: once an iteration (0), after every pass, after every second one."""
    num_passes = plan.make_scheme().num_passes(plan.ranks_sharing_head)
    return [0] + [passes for passes in (1, 2) if passes < num_passes]


def _name(scheme: SchemeChoice) -> SchemeName:
    assert scheme != "senders"
    return scheme
