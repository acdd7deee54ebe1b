"""Steps of K simulated ranks: a recorded step of training played with clocks in place of work.

Every rank goes through the events of the recorded step in their order. A rank's collectives run one after the other
in the order in which it started them, as on the communication thread: one begins when all ranks of its group have come
to it, and ends for all at once. So what is started earlier depends on nothing that is started later, and going through
the program once, with an array of K clocks, gives what an event queue would give, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owt_mpi.planner.cluster import Cluster
from owt_mpi.planner.collective_times import collective_seconds
from owt_mpi.planner.kernel import Kernel, PrecisionName
from owt_mpi.planner.recording import Collective, Event, Group, Start, Wait


@dataclass(frozen=True)
class Disturbances:
    """What makes ranks differ, all drawn from `seed`.

    `stragglers` ranks compute `straggling` times as long; every stretch of work between two exchanges lasts
    1 + `jitter` times |a normal number| as long; the first rank's links have 1 / `slow_link` of their rate.
    """

    stragglers: int = 0
    straggling: float = 1.0
    jitter: float = 0.0
    slow_link: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds of a step: whole, those that the mean rank computes, and those of its collectives, hidden or not."""

    seconds: float
    compute_seconds: float
    exchange_seconds: float

    @property
    def exposed_seconds(self) -> float:
        """What is not computing: exchange that nothing hides, and waiting for slower ranks."""
        return self.seconds - self.compute_seconds


def simulate(
    events: Sequence[Event],
    cluster: Cluster,
    num_ranks: int,
    precision: PrecisionName,
    disturbances: Disturbances | None = None,
    num_steps: int = 1,
) -> Timing:
    """Return the mean of `num_steps` steps of `num_ranks` (K) ranks, each of which has `events`."""
    disturbances = disturbances or Disturbances()
    rng = np.random.default_rng(disturbances.seed)
    ranks = _Ranks(cluster, num_ranks, disturbances, rng)
    work = _joined(events, cluster, precision)
    for _ in range(num_steps):
        for event in work:
            if isinstance(event, Start):
                ranks.start(event.number, event.collective)
            elif isinstance(event, Wait):
                ranks.wait(event.number)
            else:
                ranks.compute(event)
    return Timing(
        float(ranks.clocks.max()) / num_steps,
        float(ranks.computed.mean()) / num_steps,
        float(ranks.exchanged.mean()) / num_steps,
    )


class _Ranks:
    """The clocks of K ranks, and of their links."""

    def __init__(self, cluster: Cluster, num_ranks: int, disturbances: Disturbances, rng: np.random.Generator) -> None:
        self._cluster, self._disturbances, self._rng = cluster, disturbances, rng
        self.clocks, self._free = np.zeros(num_ranks), np.zeros(num_ranks)
        self.computed, self.exchanged = np.zeros(num_ranks), np.zeros(num_ranks)
        self._slowness = np.ones(num_ranks)
        chosen = rng.permutation(num_ranks)[: disturbances.stragglers]
        self._slowness[chosen] = disturbances.straggling
        self._ends: dict[int, np.ndarray] = {}
        self._seconds: dict[Collective, float] = {}

    def compute(self, seconds: float) -> None:
        """Let every rank compute."""
        spent = seconds * self._slowness
        if self._disturbances.jitter:
            spent = spent * (1 + self._disturbances.jitter * np.abs(self._rng.standard_normal(len(spent))))
        self.clocks += spent
        self.computed += spent

    def start(self, number: int, collective: Collective) -> None:
        """Let every rank start a collective, each with its own group."""
        groups = members_of(collective.group, len(self.clocks))
        come = np.maximum(self.clocks, self._free)[groups]  # (groups, members)
        lasts = np.full(len(groups), self._lasting(collective))
        if self._disturbances.slow_link != 1.0:
            lasts[(groups == 0).any(axis=1)] *= self._disturbances.slow_link
        ends = come.max(axis=1) + lasts
        self._free[groups] = ends[:, None]
        self._ends[number] = self._free.copy()
        self.exchanged[groups] += lasts[:, None]
        if self._cluster.takes_cores:
            self.clocks[groups] += self._cluster.takes_cores * lasts[:, None]

    def wait(self, number: int) -> None:
        """Let every rank wait for the end of a collective."""
        np.maximum(self.clocks, self._ends[number], out=self.clocks)

    def _lasting(self, collective: Collective) -> float:
        if collective not in self._seconds:
            self._seconds[collective] = collective_seconds(self._cluster, collective, len(self.clocks))
        return self._seconds[collective]


def members_of(group: Group, num_ranks: int) -> np.ndarray:
    """Return the ranks of all groups like `group`, one group a row: blocks of size * stride ranks, cut by stride."""
    ranks = np.arange(num_ranks).reshape(-1, group.size, group.stride)
    return np.asarray(ranks.transpose(0, 2, 1).reshape(-1, group.size))


def _joined(events: Sequence[Event], cluster: Cluster, precision: PrecisionName) -> list[float | Start | Wait]:
    """Return the events with the seconds of kernels in their place, those of neighbours in one."""
    joined: list[float | Start | Wait] = []
    for event in events:
        if not isinstance(event, Kernel):
            joined.append(event)
            continue
        seconds = cluster.device.seconds(event, precision)
        if joined and isinstance(joined[-1], float):
            joined[-1] += seconds
        else:
            joined.append(seconds)
    return joined
