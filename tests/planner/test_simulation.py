"""Simulated ranks: against a plain queue of events, against the closed form, and what disturbs them."""

from collections import defaultdict, deque
from functools import cache

import numpy as np
import pytest

from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.closed_form import closed_form_seconds
from owt_mpi.planner.cluster import Cluster
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.planner.collective_times import collective_seconds
from owt_mpi.planner.kernel import Kernel
from owt_mpi.planner.recording import Event, Group, Start, Wait
from owt_mpi.planner.simulation import Disturbances, members_of, simulate
from owt_mpi.planner.traced_step import traced_step
from tests.planner.steps import SPEC

PLANS = [Plan(8, "dp"), *(Plan(8, s) for s in "abcd"), Plan(8, "c", 2), Plan(8, "d", 4), Plan(8, "c", 8, 2)]
MANY = [Plan(64, "dp"), Plan(64, "c", 8), Plan(512, "d", 2), Plan(1024, "b", 4), Plan(1024, "dp")]


@cache
def trace(model: str, plan: Plan, n: int = 64) -> list[Event]:
    return traced_step(find_builder(model), SPEC, plan, n, "fp32", True)


@pytest.mark.parametrize("model", ["alexnet-owt", "vgg11"])
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        *((name, plan) for name in ("paper-8xk20", "dgx-a100", "h100-infiniband", "v100-25gbe") for plan in PLANS),
        *((name, plan) for name in ("dgx-a100", "h100-infiniband", "v100-25gbe") for plan in MANY),
    ],
)
def test_the_closed_form_agrees_within_five_percent(model, name, plan):
    cluster = load_cluster(name)
    simulated = simulate(trace(model, plan), cluster, plan.num_ranks, "fp32").seconds
    closed = closed_form_seconds(find_builder(model)(SPEC), plan, 64, "fp32", cluster)
    assert closed == pytest.approx(simulated, rel=0.05)


def by_events(events: list[Event], cluster: Cluster, num_ranks: int, slowness: list[float]) -> float:
    """The same step by ranks that go on as far as they can, whichever is behind; and by queues of collectives."""
    clocks, at = [0.0] * num_ranks, [0] * num_ranks
    queues: list[deque] = [deque() for _ in range(num_ranks)]
    free = [0.0] * num_ranks
    ended: dict[tuple[int, int], float] = {}
    while any(place < len(events) for place in at):
        for rank in reversed(range(num_ranks)):
            while at[rank] < len(events):
                event = events[at[rank]]
                if isinstance(event, Kernel):
                    clocks[rank] += cluster.device.seconds(event, "fp32") * slowness[rank]
                elif isinstance(event, Start):
                    queues[rank].append((event, clocks[rank]))
                elif (rank, event.number) in ended:
                    clocks[rank] = max(clocks[rank], ended[rank, event.number])
                else:
                    break
                at[rank] += 1
        heads = defaultdict(list)
        for rank, queue in enumerate(queues):
            if queue:
                group = queue[0][0].collective.group
                block, place = divmod(rank, group.size * group.stride)
                heads[queue[0][0], block, place % group.stride].append(rank)
        for (event, *_), ranks in heads.items():
            if len(ranks) == event.collective.group.size:
                come = max(max(queues[rank][0][1], free[rank]) for rank in ranks)
                for rank in ranks:
                    queues[rank].popleft()
                    free[rank] = ended[rank, event.number] = come + collective_seconds(
                        cluster, event.collective, num_ranks
                    )
    return max(clocks)


@pytest.mark.parametrize("plan", PLANS)
def test_a_queue_of_events_gives_the_same_time(plan):
    cluster, events = load_cluster("v100-25gbe"), trace("alexnet-owt", plan)
    unequal = Disturbances(stragglers=3, straggling=1.7, seed=5)
    slow = np.random.default_rng(5).permutation(8)[:3]
    slowness = [1.7 if rank in slow else 1.0 for rank in range(8)]
    expected = by_events(events, cluster, 8, slowness)
    assert simulate(events, cluster, 8, "fp32", unequal).seconds == pytest.approx(expected, rel=1e-12)


def test_groups_are_neighbours_and_replicas_far_apart():
    assert members_of(Group("head", 2), 8).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert members_of(Group("replicas", 4, 2), 8).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def disturbed(num_steps: int = 1, num_ranks: int = 64, **options) -> float:
    cluster, plan = load_cluster("dgx-a100"), Plan(64, "c", 8)
    events = trace("alexnet-owt", plan)
    return simulate(events, cluster, num_ranks, "fp32", Disturbances(**options), num_steps).seconds


def test_a_straggler_holds_up_all_the_others():
    even = disturbed()
    assert disturbed(stragglers=1, straggling=1.5) == pytest.approx(1.5 * even, rel=0.08)
    assert disturbed(num_steps=3) == pytest.approx(even)


def test_jitter_is_drawn_from_the_seed_and_costs_the_most_unlucky_ranks_time():
    one, again, other = (disturbed(4, jitter=0.1, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert 1.1 < one / disturbed() < 1.6


def test_a_slow_link_counts_where_exchange_is_seen():
    assert disturbed(slow_link=20.0) > 1.2 * disturbed()


def test_a_transfer_that_takes_cores_hides_nothing():
    events = [Kernel("", "linear", (), (), 10**12)]
    started = next(e for e in trace("alexnet-owt", Plan(8, "dp")) if isinstance(e, Start))
    events = [started, *events, Wait(started.number)]
    seen = []
    for share in (0.0, 1.0):
        cluster = load_cluster("v100-25gbe")
        cluster = Cluster(**{**vars(cluster), "takes_cores": share})
        seen.append(simulate(events, cluster, 8, "fp32"))
    lasts = seen[0].exchange_seconds
    assert lasts < seen[0].compute_seconds
    assert seen[0].seconds == pytest.approx(seen[0].compute_seconds)
    assert seen[1].seconds == pytest.approx(seen[1].compute_seconds + lasts)
