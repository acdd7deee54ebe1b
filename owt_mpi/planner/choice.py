"""Which scheme on which group size: every one that fits, simulated and forecast, and the best with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from owt_mpi.memory_forecast import MemoryForecast, MemoryOptions, forecast_memory
from owt_mpi.nn.model import Builder, InputSpec
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan, SchemeName
from owt_mpi.planner.cluster import Cluster
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.kernel import PRECISIONS, PrecisionName
from owt_mpi.planner.simulation import Disturbances, Timing, simulate
from owt_mpi.planner.traced_step import SyncOptions, traced_step
from owt_mpi.summary import summarise

SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)
FAMILIES = ("dp", "one group", "smaller groups")
_WORTH = 1.01  # a scheme is chosen over plain data parallelism where it is faster by more than this
_DISTURBED_STEPS = 20


@dataclass(frozen=True)
class PlanCase:
    """What is to be trained, on what: `images` (n) a rank and step, the head updated as `update` says.

    `sync` says how ranks keep their weights in step.
    """

    builder: Builder
    spec: InputSpec
    images: int
    cluster: Cluster
    precision: PrecisionName = "fp32"
    update: HeadUpdate = field(default_factory=HeadUpdate)
    disturbances: Disturbances = field(default_factory=Disturbances)
    sync: SyncOptions = field(default_factory=SyncOptions)

    @property
    def dtype(self) -> np.dtype:
        """What activations and gradients are kept in, by its size."""
        return np.dtype(f"f{PRECISIONS[self.precision]}")


@dataclass(frozen=True)
class PlanRow:
    """A scheme on K ranks in groups of G. Efficiency is that of K ranks beside one; memory and bytes are a rank's."""

    ranks: int
    scheme: SchemeName
    group_size: int
    seconds: float
    images_per_second: float
    efficiency: float
    compute_seconds: float
    exposed_seconds: float
    memory_bytes: int
    fits: bool
    received_bytes: dict[str, int]

    @property
    def received(self) -> int:
        """All bytes that a rank receives in a step."""
        return sum(self.received_bytes.values())

    @property
    def options(self) -> str:
        """What `owt_mpi.train` is told to do it."""
        groups = f" --head-group-size {self.group_size}" if 1 < self.group_size < self.ranks else ""
        return f"--scheme {self.scheme}{groups}"


def step_timing(case: PlanCase, plan: Plan) -> Timing:
    """Return the simulated time of a step of `plan`."""
    is_gpu = case.cluster.device.is_gpu
    events = traced_step(case.builder, case.spec, plan, case.images, case.precision, is_gpu, case.update, case.sync)
    num_steps = 1 if case.disturbances == Disturbances() else _DISTURBED_STEPS
    return simulate(events, case.cluster, plan.num_ranks, case.precision, case.disturbances, num_steps)


def plan_rows(
    case: PlanCase, num_ranks: int, groups: Sequence[int] = (), schemes: Sequence[SchemeName] = SCHEMES
) -> list[PlanRow]:
    """Return a row for each scheme and each of `groups`, by default for all group sizes that are possible.

    ValueError, with the way out, where there are not so many ranks, or a size in `groups` is not possible.
    """
    cluster = case.cluster
    if cluster.most_ranks and num_ranks > cluster.most_ranks:
        raise ValueError(
            f"--ranks {num_ranks}: {cluster.name} has {cluster.most_ranks}; give that or fewer, or another --cluster"
        )
    cluster.device.peak.check(case.precision)
    alone = step_timing(replace(case, update=HeadUpdate(), disturbances=Disturbances()), Plan(1)).seconds
    return [_row(case, plan, alone) for plan in possible_plans(case, num_ranks, groups, schemes)]


def possible_plans(
    case: PlanCase, num_ranks: int, groups: Sequence[int], schemes: Sequence[SchemeName] = SCHEMES
) -> list[Plan]:
    """Return the plans for `num_ranks`: data parallelism, then the schemes by group size. ValueError as `plan_rows`."""
    plans, refused = _sorted_plans(case, num_ranks, groups, schemes)
    for group_size in groups:
        if not any(plan.ranks_sharing_head == group_size for plan in plans):
            raise [error for plan, error in refused if plan.ranks_sharing_head == group_size][-1]
    if not plans:
        raise refused[-1][1]
    return plans


def why_left_out(case: PlanCase, num_ranks: int, groups: Sequence[int] = ()) -> str:
    """Return in a sentence what is not possible and, for the last of it, why; "" where all is."""
    refused = _sorted_plans(case, num_ranks, groups, SCHEMES)[1]
    if not refused:
        return ""
    sizes: dict[str, list[str]] = {}
    for plan, _ in refused:
        sizes.setdefault(plan.scheme, []).append(str(plan.ranks_sharing_head))
    words = "; ".join(f"{scheme} with G = {', '.join(each)}" for scheme, each in sizes.items())
    return f"Left out as impossible: {words}. The last one: {refused[-1][1]}."


def _sorted_plans(
    case: PlanCase, num_ranks: int, groups: Sequence[int], schemes: Sequence[SchemeName]
) -> tuple[list[Plan], list[tuple[Plan, ValueError]]]:
    """Return the plans that are possible, and those that are not with the reason."""
    model = case.builder(case.spec)
    sizes = groups or [size for size in range(2, num_ranks + 1) if num_ranks % size == 0]
    asked = [Plan(num_ranks, "dp", 1)] if "dp" in schemes or num_ranks == 1 else []
    asked += [Plan(num_ranks, scheme, size) for size in sizes for scheme in schemes if scheme != "dp"]
    plans: list[Plan] = []
    refused: list[tuple[Plan, ValueError]] = []
    for plan in asked:
        try:
            plan.check(model, case.images)
            case.update.period(plan.make_scheme().num_passes(plan.ranks_sharing_head))
            plans.append(plan)
        except ValueError as error:
            refused.append((plan, error))
    return plans, refused


def family_of(row: PlanRow) -> str:
    """Return how the head is spread: not at all, over all ranks, or over groups of them."""
    return "dp" if row.group_size == 1 else FAMILIES[1 + (row.group_size < row.ranks)]


def choose(rows: Sequence[PlanRow]) -> PlanRow:
    """Return the fastest that fits into memory; data parallelism where nothing is faster by 1 %."""
    best = min((row for row in rows if row.fits), key=lambda row: row.seconds)
    plain = [row for row in rows if row.scheme == "dp" and row.fits]
    return plain[0] if plain and plain[0].seconds <= best.seconds * _WORTH else best


def reason(rows: Sequence[PlanRow], chosen: PlanRow) -> str:
    """Return in a sentence or two what to choose, and why."""
    said = (
        f"Choose {chosen.options}: {chosen.seconds * 1e3:.1f} ms a step, {chosen.images_per_second:,.0f} images/s, "
        f"{chosen.efficiency:.0%} of {chosen.ranks} times one rank."
    )
    others = [row for row in rows if row is not chosen and (row.scheme == "dp") != (chosen.scheme == "dp")]
    if not others:
        return said
    other = min((row for row in others if row.fits), key=lambda row: row.seconds, default=others[0])
    if not other.fits:
        return f"{said} {_named(other)} does not fit into memory."
    gap = other.seconds / chosen.seconds - 1
    if gap < _WORTH - 1:
        return (
            f"{said} The best other, {_named(other)}, takes {other.seconds * 1e3:.1f} ms: not enough to split the head."
        )
    more = other.exposed_seconds - chosen.exposed_seconds > other.compute_seconds - chosen.compute_seconds
    cause = (
        f"{other.exposed_seconds * 1e3:.1f} ms of its exchange pass under no work, against "
        f"{chosen.exposed_seconds * 1e3:.1f} ms"
        if more
        else f"it computes {other.compute_seconds * 1e3:.1f} ms, against {chosen.compute_seconds * 1e3:.1f} ms"
    )
    return (
        f"{said} {_named(other)} takes {gap:.0%} longer: {cause} ({other.received / 1e6:,.0f} and "
        f"{chosen.received / 1e6:,.0f} MB received a rank)."
    )


def refuse_memory(case: PlanCase, rows: Sequence[PlanRow]) -> None:
    """Raise ValueError, with the way out, if none of `rows` fits into memory."""
    if any(row.fits for row in rows):
        return
    least, device = min(rows, key=lambda row: row.memory_bytes), case.cluster.device
    images = case.images
    while images > 1:
        images //= 2
        plans = possible_plans(replace(case, images=images), least.ranks, ())
        fitting = [plan for plan in plans if _memory(case, plan, images).num_bytes <= device.memory_bytes]
        if fitting:
            way = f"give --images-per-rank {images} or fewer ({fitting[0].scheme} then fits)"
            break
    else:
        way = "no batch fits: give a --cluster with more memory, --precision bf16, or a smaller model"
    raise ValueError(
        f"{case.images} images a rank need {least.memory_bytes / 1e9:.1f} GB or more, and a {device.peak.name} has "
        f"{device.memory_bytes / 1e9:.1f} GB; {way}"
    )


def _row(case: PlanCase, plan: Plan, alone_seconds: float) -> PlanRow:
    timing, model, layout = step_timing(case, plan), case.builder(case.spec), layout_of(plan)
    memory = _memory(case, plan, case.images).num_bytes
    return PlanRow(
        ranks=plan.num_ranks,
        scheme=plan.scheme,
        group_size=plan.ranks_sharing_head,
        seconds=timing.seconds,
        images_per_second=plan.num_ranks * case.images / timing.seconds,
        efficiency=alone_seconds / timing.seconds,
        compute_seconds=timing.compute_seconds,
        exposed_seconds=timing.exposed_seconds,
        memory_bytes=memory,
        fits=memory <= case.cluster.device.memory_bytes,
        received_bytes=summarise(model, layout, case.images, case.dtype, _memory_options(case)).received_bytes,
    )


def _memory(case: PlanCase, plan: Plan, images: int) -> MemoryForecast:
    return forecast_memory(case.builder(case.spec), layout_of(plan), images, case.dtype, _memory_options(case))


def _memory_options(case: PlanCase) -> MemoryOptions:
    device, sync = case.cluster.device, case.sync
    backend = "cuda" if device.is_gpu else "onednn"
    return MemoryOptions(backend, sync.trunk_sync, sync.wire_dtype, device_bytes=int(device.memory_bytes))


def _named(row: PlanRow) -> str:
    return "Data parallelism" if row.scheme == "dp" else f"({row.scheme}) in groups of {row.group_size}"
