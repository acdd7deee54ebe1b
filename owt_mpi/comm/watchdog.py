"""A watch on what a rank waits for: it says on whom, and ends the job where the wait has no end.

A process runs its collectives in the order in which it starts them, so what holds a rank up need not be what it waits
for: it is the first collective, up to that one, that some rank has not started.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NoReturn

from owt_mpi.comm.base import Communicator, Pending, T
from owt_mpi.comm.guard import fail
from owt_mpi.comm.place import describe, here, position
from owt_mpi.comm.progress import Progress, ProgressFolder
from owt_mpi.comm.wrapper import Call, CommunicatorWrapper

MAX_NAMED = 8  # ranks in one message
_STOPPED = 4  # a thread that wakes after so many times as long as it wanted to sleep was stopped meanwhile


@dataclass(frozen=True)
class Started:
    """A collective that this rank has started: the `number`-th of the communicator `name`, whose ranks are `members`.

    `members` are numbered as in the world.
    """

    order: int
    name: str
    number: int
    members: tuple[int, ...]
    what: str


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


def _abort(text: str) -> NoReturn:
    fail(text, 1)


class Watch:
    """The watch of the rank whose thread makes it.

    After `stall_seconds` inside one wait (0: no watch at all) a line says what is waited for and who has not started
    it, once a wait; after `abort_seconds` (0: never) that line ends the job with exit code 1. `clock` measures waits,
    `wall`, which other hosts share, stamps what is written for them.
    """

    def __init__(
        self,
        rank: int,
        stall_seconds: float,
        abort_seconds: float,
        say: Callable[[str], None] = _say,
        abort: Callable[[str], None] = _abort,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rank, self._stall_seconds, self._abort_seconds = rank, stall_seconds, abort_seconds
        self._say, self._abort, self._clock, self._wall = say, abort, clock, wall
        self._position, self._is_alone = position(), True
        self._lock = threading.Lock()
        self._num_started: dict[str, int] = {}
        self._under_way: deque[Started] = deque()  # in the order they were started
        self._order = 0
        self._wait: tuple[Started, float] | None = None  # what is waited for, and since when
        self._reported: Started | None = None

    def communicator(self, world: Communicator) -> Communicator:
        """Return `world`, with this watch on it and on what is made of it by dup and split."""
        self._is_alone = world.size == 1
        return _WatchedCommunicator(world, self, "world", tuple(range(world.size)))

    @contextmanager
    def running(self, folder: Path) -> Iterator[None]:
        """Watch in a thread of its own within the block, with the ranks' progress kept in `folder`."""
        if not self._stall_seconds or self._is_alone:
            yield
            return
        progress, end = ProgressFolder(folder, self._rank), threading.Event()
        interval = max(1.0, min(self._stall_seconds / 4, 15.0))

        def run() -> None:
            looked = self._clock()
            self.tick(progress)
            while not end.wait(interval):
                nap, looked = self._clock() - looked, self._clock()
                self.tick(progress, stopped_seconds=nap - interval if nap > _STOPPED * interval else 0.0)

        thread = threading.Thread(target=run, name=f"owt_mpi watch of rank {self._rank}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            progress.remove()

    def tick(self, progress: ProgressFolder, stopped_seconds: float = 0.0) -> None:
        """Write this rank's progress; if it has waited for too long, say so or abort.

        `stopped_seconds`, for which this process was stopped since the last tick, are no waiting: where a job is
        suspended and resumed (SIGSTOP, SIGCONT), no rank has held up another.
        """
        with self._lock:
            if stopped_seconds and self._wait is not None:
                started, since = self._wait
                self._wait = started, min(since + stopped_seconds, self._clock())
            wait, num_started = self._wait, dict(self._num_started)
            last = wait[0].order if wait is not None else -1
            before = [started for started in self._under_way if started.order <= last]
        waits_for = wait[0].what if wait is not None else ""
        place = describe(self._position.place)
        progress.write(Progress(socket.gethostname(), self._wall(), place, waits_for, num_started))
        if wait is None:
            return
        seconds = self._clock() - wait[1]
        if self._abort_seconds and seconds >= self._abort_seconds:
            self._abort(f"{self._describe(seconds, before, progress)}; --stall-abort-seconds have passed")
        elif seconds >= self._stall_seconds and wait[0] is not self._reported:
            self._reported = wait[0]
            self._say(self._describe(seconds, before, progress))

    def started(self, name: str, members: tuple[int, ...], what: str) -> Started:
        """Return the record of a collective that this rank starts."""
        with self._lock:
            number = self._num_started.get(name, 0)
            started = Started(self._order, name, number, members, what)
            self._num_started[name] = number + 1
            self._order += 1
            self._under_way.append(started)
        return started

    @contextmanager
    def waiting(self, started: Started) -> Iterator[None]:
        """Count what happens within as waiting for `started`, which is over at the end, with all started before it."""
        with self._lock:
            self._wait = (started, self._clock())
        try:
            yield
        finally:
            with self._lock:
                self._wait = None
                while self._under_way and self._under_way[0].order <= started.order:
                    self._under_way.popleft()

    def _describe(self, seconds: float, before: list[Started], progress: ProgressFolder) -> str:
        """Return what this rank waits for, the last of `before`, and which ranks hold it up."""
        text = f"rank {self._rank} has waited {seconds:.0f} s for {before[-1].what}"
        now = self._wall()

        def name(ranks: list[int]) -> str:
            found = [(rank, progress.read(rank)) for rank in ranks[:MAX_NAMED]]
            words = [f"rank {rank} ({each.describe(now) if each else 'not heard of'})" for rank, each in found]
            return ", ".join(words) + (f" and {len(ranks) - MAX_NAMED} more" if len(ranks) > MAX_NAMED else "")

        for started in before:
            others = [rank for rank in started.members if rank != self._rank]
            missing = [rank for rank in others if not _has_started(progress, rank, started)]
            if missing:
                earlier = f"; {started.what} comes before it" if started is not before[-1] else ""
                return f"{text}{earlier}; not started yet by {name(missing)}"
        others = [rank for rank in before[-1].members if rank != self._rank]
        return f"{text}, which all its ranks have started: {name(others)}"


def _has_started(progress: ProgressFolder, rank: int, started: Started) -> bool:
    found = progress.read(rank)
    return found is not None and found.num_started.get(started.name, 0) > started.number


class _WatchedPending(Generic[T]):
    def __init__(self, pending: Pending[T], started: Started, watch: Watch) -> None:
        self._pending, self._started, self._watch = pending, started, watch

    def wait(self) -> T:
        with self._watch.waiting(self._started):
            return self._pending.wait()


class _WatchedCommunicator(CommunicatorWrapper):
    """`inner` under a watch. `name` is the same on all its ranks; `members` are they, numbered as in the world."""

    def __init__(self, inner: Communicator, watch: Watch, name: str, members: tuple[int, ...]) -> None:
        super().__init__(inner)
        self._watch, self._name, self._members = watch, name, members
        self._num_made = 0

    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        pending = start()
        return _WatchedPending(pending, self._started(call), self._watch)

    def _run(self, call: Call, run: Callable[[], T]) -> T:
        with self._watch.waiting(self._started(call)):
            return run()

    def _wrap(self, inner: Communicator) -> Communicator:
        self._num_made += 1
        members = tuple(inner.all_gather_object(self._members[self.rank]))
        return _WatchedCommunicator(inner, self._watch, f"{self._name}/{self._num_made}", members)

    def _started(self, call: Call) -> Started:
        return self._watch.started(self._name, self._members, f"{call} on {self.label!r} in {here()}")
