"""Where ranks that are threads meet: matching of collectives, failure of a peer, and detection of deadlock.

It is as strict as a transport with one communication thread a process: a rank's collectives run in the order in which
it started them, whatever their communicator, so an order that would hang such a transport is found here.
"""

import threading
import time
from collections import deque
from collections.abc import Hashable
from typing import Any

from owt_mpi.comm.base import PeerFailure


class MeetingTimes:
    """When a meeting `began` for each of its members and `ended` for all, in seconds of time.perf_counter().

    It begins for a member that has posted and whose earlier meetings are over, as on a communication thread; it ends
    when it has begun for the last of them.
    """

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.ended: float | None = None


class Meeting:
    """One collective of one communicator: what is called, who takes part, and what each brought."""

    def __init__(self, call: str, members: tuple[int, ...]) -> None:
        self.call = call
        self.members = members
        self.payloads: dict[int, Any] = {}
        self.complete = False
        self.times = MeetingTimes()


class Meetings:
    """The open meetings of `size` ranks. Every method may be called from any of their threads, one thread a rank."""

    def __init__(self, size: int) -> None:
        self._changed = threading.Condition()
        self._open: dict[Hashable, Meeting] = {}
        self._order: list[deque[Meeting]] = [deque() for _ in range(size)]  # started, not yet run
        self._last_ended = [0.0] * size  # when each rank's last meeting did
        self._waiting: dict[int, Meeting] = {}
        self._finished: set[int] = set()
        self._failure: str | None = None

    def post(self, rank: int, key: Hashable, members: tuple[int, ...], call: str, payload: Any) -> Meeting:
        """Return the meeting `key` after adding `payload`. ValueError if another member made another `call` there."""
        with self._changed:
            self._raise_if_failed()
            meeting = self._open.setdefault(key, Meeting(call, members))
            if meeting.call != call:
                raise ValueError(
                    f"ranks disagree on the next collective: rank {rank} started {call}, "
                    f"rank {min(meeting.payloads)} started {meeting.call}; "
                    "all ranks of a communicator must start the same collectives in the same order"
                )
            meeting.payloads[rank] = payload
            meeting.times.began[rank] = time.perf_counter()
            if len(meeting.payloads) == len(members):
                del self._open[key]
            self._order[rank].append(meeting)
            self._run_ready()
            return meeting

    def wait(self, rank: int, meeting: Meeting) -> list[Any]:
        """Return the members' payloads in their order, when all are there and this rank's earlier meetings are over."""
        with self._changed:
            try:
                while not meeting.complete:
                    self._raise_if_failed()
                    self._waiting[rank] = meeting
                    self._raise_if_stuck()
                    self._changed.wait()
            finally:
                self._waiting.pop(rank, None)
        return [meeting.payloads[member] for member in meeting.members]

    def finish(self, rank: int) -> None:
        """Record that `rank` will start nothing more. RuntimeError if that leaves the others waiting for ever."""
        with self._changed:
            self._finished.add(rank)
            if self._failure is None:
                self._raise_if_stuck()

    def fail(self, reason: str) -> None:
        """Make every rank that waits, or starts something later, raise PeerFailure with `reason` (the first counts)."""
        with self._changed:
            if self._failure is None:
                self._failure = reason
            self._changed.notify_all()

    def _raise_if_failed(self) -> None:
        if self._failure is not None:
            raise PeerFailure(self._failure)

    def _run_ready(self) -> None:
        """Complete every meeting that is the next one of all its members, until there is none."""
        heads = [order[0] for order in self._order if order]
        while heads:
            meeting = heads.pop()
            if meeting.complete or any(self._next_of(member) is not meeting for member in meeting.members):
                continue
            meeting.complete = True
            times = meeting.times
            times.ended = time.perf_counter()
            for member in meeting.members:
                self._order[member].popleft()
                times.began[member] = max(times.began[member], self._last_ended[member])
                self._last_ended[member] = times.ended
            heads += [order[0] for order in self._order if order]
            self._changed.notify_all()

    def _next_of(self, rank: int) -> Meeting | None:
        return self._order[rank][0] if self._order[rank] else None

    def _raise_if_stuck(self) -> None:
        """Raise RuntimeError if every rank has finished or waits for what cannot come, and some rank waits."""
        stuck = {rank for rank, meeting in self._waiting.items() if not meeting.complete}
        if not stuck or len(stuck | self._finished) < len(self._order):
            return
        states = []
        for rank, order in enumerate(self._order):
            if rank in stuck:
                first = f" (first in its order: {order[0].call})" if order[0] is not self._waiting[rank] else ""
                states.append(f"rank {rank} waits for {self._waiting[rank].call}{first}")
            else:
                states.append(f"rank {rank} has returned")
        raise RuntimeError("deadlock, the ranks started different collectives: " + "; ".join(states))
