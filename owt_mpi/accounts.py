"""What a run's training steps took: time, and what crossed the wire; by windows and in all."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.ledger import Flow, Flows, Ledger, add_flows, flow_rows
from owt_mpi.disk import write_whole


@dataclass(frozen=True)
class Times:
    """Seconds of one rank: of its training steps, and those of them it stood waiting for exchanges and for data."""

    steps: float = 0.0
    exchange_wait: float = 0.0
    data_wait: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(
            self.steps + other.steps, self.exchange_wait + other.exchange_wait, self.data_wait + other.data_wait
        )

    def __sub__(self, other: "Times") -> "Times":
        return Times(
            self.steps - other.steps, self.exchange_wait - other.exchange_wait, self.data_wait - other.data_wait
        )


class Accounts:
    """The accounts of this rank. `data_wait` returns the seconds it has waited for data so far.

    `flows` are this rank's over the run, `ranks` the times of every rank.
    """

    def __init__(
        self, ledger: Ledger, data_wait: Callable[[], float], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.flows: Flows = {}
        self.ranks: list[Times] = []
        self.num_steps = 0
        self._cold, self._num_cold = Times(), 0
        self._ledger, self._data_wait, self._clock = ledger, data_wait, clock
        self.open_window()

    def open_window(self) -> None:
        """Begin to count anew."""
        self._ledger.take()
        self._start = self._now()

    def _now(self) -> Times:
        return Times(self._clock(), self._ledger.wait_seconds, self._data_wait())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens within."""
        before = self._now()
        with self._ledger.aside():
            yield
        self._start += self._now() - before

    def warmed_up(self, rank: int, num_steps: int) -> None:
        """Leave the first `num_steps` steps, which lie behind this rank, out of `warm`."""
        before = self.ranks[rank] if self.ranks else Times()
        self._cold, self._num_cold = before + (self._now() - self._start), num_steps

    def warm(self, rank: int) -> tuple[Times, int]:
        """Return the times of this rank, and of how many steps, without the first where others follow."""
        if self.num_steps <= self._num_cold:
            return self.ranks[rank] if self.ranks else Times(), self.num_steps
        return self.ranks[rank] - self._cold, self.num_steps - self._num_cold

    def close_window(self, num_steps: int, world: Communicator) -> tuple[list[Times], Flows]:
        """Return every rank's times of the last `num_steps` steps, and this rank's flows. All ranks of `world` call.

        They are added to the run's, and the next window is open.
        """
        ranks, flows = world.all_gather_object(self._now() - self._start), self._ledger.take()
        add_flows(self.flows, flows)
        self.ranks = [a + b for a, b in zip(self.ranks, ranks, strict=True)] if self.ranks else ranks
        self.num_steps += num_steps
        self.open_window()
        return ranks, flows


def write_wire(path: Path, world: Communicator, accounts: Accounts) -> list[str]:
    """Write every rank's flows of the run to `path`, on rank 0; return lines that sum them up. All ranks call.

    Where it cannot be written, the first line says so.
    """
    ranks = world.all_gather_object(accounts.flows)
    said = []
    if world.rank == 0:
        content = {"steps": accounts.num_steps, "ranks": [flow_rows(flows) for flows in ranks]}
        try:
            write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            said = [f"WARNING: {path} could not be written ({error}); the table below has its sums"]
    return said + wire_lines(ranks, accounts.num_steps)


def total_flows(ranks: Sequence[Flows]) -> dict[tuple[str, str], Flow]:
    """Return the sums over all ranks by communicator and collective; empty where nothing crossed."""
    totals: dict[tuple[str, str], Flow] = {}
    for flows in ranks:
        for key, flow in flows.items():
            place = (key.label, key.collective)
            totals[place] = totals.get(place, Flow()) + flow
    return totals


def wire_lines(ranks: list[Flows], num_steps: int) -> list[str]:
    """Return a table of the ranks' mean flows, by communicator and collective; no lines where nothing crossed."""
    totals = total_flows(ranks)
    if not totals:
        return []
    totals["all", ""] = sum(totals.values(), Flow())
    lines = [
        f"on the wire, mean of {len(ranks)} ranks:",
        f"  {'':<30}{'calls/step':>11}{'MB received/step':>18}{'ms/step':>10}{'hidden':>8}",
    ]
    share = 1 / (len(ranks) * num_steps)
    for (label, collective), flow in totals.items():
        lines.append(
            f"  {f'{label} {collective}':<30}{flow.calls * share:>11.1f}{flow.received_bytes * share / 1e6:>18.3f}"
            f"{flow.seconds * share * 1e3:>10.2f}{flow.hidden_share:>8.0%}"
        )
    return lines
