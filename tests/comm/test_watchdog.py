"""A rank that waits for too long says what for and on whom, from what the others left behind; then it ends the job."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator, Pending, T
from owt_mpi.comm.place import Place, enter, position
from owt_mpi.comm.progress import Progress, ProgressFolder
from owt_mpi.comm.threads import run_ranks
from owt_mpi.comm.watchdog import Watch
from owt_mpi.comm.wrapper import Call, CommunicatorWrapper
from tests.comm.checks import CHECKS

X = np.ones((2, 4), np.float32)
HOST = os.uname().nodename


class Rank:
    """A watch with a hand-moved clock, on a communicator that calls `while_waiting` inside every wait."""

    def __init__(self, comm: Communicator, folder: Path, limits: tuple[float, float] = (60, 1800)) -> None:
        self.now, self.said, self.aborted = 1000.0, [], []
        self.while_waiting: Callable[[], None] = lambda: None
        self.watch = Watch(
            comm.rank, *limits, self.said.append, self.aborted.append, lambda: self.now, lambda: self.now + 5e8
        )
        self.progress = ProgressFolder(folder, comm.rank)
        self.comm = self.watch.communicator(_Hooked(comm, self))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.watch.tick(self.progress)


class _Hooked(CommunicatorWrapper):
    def __init__(self, inner: Communicator, owner: Rank) -> None:
        super().__init__(inner)
        self._owner = owner

    def _start(self, call: Call, start: Callable[[], Pending[T]]) -> Pending[T]:
        pending, owner = start(), self._owner

        class Hooked:
            def wait(self) -> T:
                owner.while_waiting()
                return pending.wait()

        return Hooked()

    def _run(self, call: Call, run: Callable[[], T]) -> T:
        if call.kind == "barrier":
            self._owner.while_waiting()
        return run()

    def _wrap(self, inner: Communicator) -> Communicator:
        return _Hooked(inner, self._owner)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_communicator(check: Callable[[Communicator], None], size: int) -> None:
    run_ranks(size, lambda comm: check(Watch(comm.rank, 60, 0).communicator(comm)))


def test_the_rank_that_has_not_started_is_named_and_those_that_have_are_not(tmp_path: Path) -> None:
    written, told = threading.Barrier(3), threading.Event()

    def fn(comm: Communicator) -> list[str]:
        rank = Rank(comm, tmp_path)
        trunk = rank.comm.dup("trunk")
        enter("trunk forward", 4)
        if comm.rank == 1:
            rank.tick(-7)
            written.wait()
            told.wait()
        enter("trunk backward", 4)
        pending = trunk.start_all_reduce(X)
        if comm.rank == 2:
            rank.tick()
            written.wait()
        if comm.rank == 0:

            def look() -> None:
                written.wait()
                rank.tick(59.9)
                assert not rank.said
                rank.tick(0.3)
                rank.tick(1000)
                told.set()

            rank.while_waiting = look
        pending.wait()
        rank.while_waiting = lambda: None
        trunk.start_all_gather(X).wait()
        rank.tick(1e6)
        assert not rank.aborted
        return rank.said

    expected = (
        "rank 0 has waited 60 s for all_reduce(float32, (2, 4)) on 'trunk' in step 4, trunk backward; "
        f"not started yet by rank 1 (seen 67 s ago on host {HOST} in step 4, trunk forward)"
    )
    assert run_ranks(3, fn) == [[expected], [], []], "once a wait, and never outside one"


def test_a_rank_that_is_itself_held_up_tells_by_what(tmp_path: Path) -> None:
    written, told = threading.Barrier(2), threading.Event()

    def fn(comm: Communicator) -> list[str]:
        rank = Rank(comm, tmp_path)
        group, replicas = rank.comm.split(comm.rank // 2, 0, "group"), rank.comm.split(comm.rank % 2, 0, "replicas")

        def show_others() -> None:
            rank.tick()
            written.wait()
            told.wait()

        def report() -> None:
            written.wait()
            rank.tick(60)
            told.set()

        if comm.rank == 0:  # holds up rank 2, which holds up rank 3
            told.wait()
        if comm.rank == 2:
            rank.while_waiting = show_others
        if comm.rank % 2 == 0:
            replicas.start_all_reduce(X).wait()
        rank.while_waiting = report if comm.rank == 3 else lambda: None
        group.barrier()
        return rank.said

    [said] = run_ranks(4, fn)[3]
    assert said == (
        "rank 3 has waited 60 s for barrier() on 'group' in start-up; not started yet by rank 2 "
        f"(seen 60 s ago on host {HOST} in start-up, waiting for all_reduce(float32, (2, 4)) on 'replicas' in start-up)"
    )


def test_the_first_collective_that_is_not_started_everywhere_is_to_blame(tmp_path: Path) -> None:
    """A process runs them in order: rank 0 waits for what rank 1 has started, behind another that rank 1 has not."""
    written = threading.Event()

    def fn(comm: Communicator) -> list[str]:
        rank = Rank(comm, tmp_path)
        trunk, head = rank.comm.dup("trunk"), rank.comm.dup("head")
        if comm.rank == 1:
            head.start_all_gather(X)
            rank.tick()
            written.set()
            return []
        trunk.start_all_reduce(X)
        pending = head.start_all_gather(X)

        def look() -> None:
            written.wait()
            rank.tick(60)
            raise InterruptedError

        rank.while_waiting = look
        with pytest.raises(InterruptedError):
            pending.wait()
        return rank.said

    [said] = run_ranks(2, fn)[0]
    assert said.startswith(
        "rank 0 has waited 60 s for all_gather(float32, (2, 4), axis=0) on 'head' in start-up; "
        "all_reduce(float32, (2, 4)) on 'trunk' in start-up comes before it; not started yet by rank 1 ("
    )


def watch_alone(limits: tuple[float, float]) -> tuple[Watch, list[str], list[str], list[float]]:
    said: list[str] = []
    aborted: list[str] = []
    now = [0.0]
    watch = Watch(0, *limits, said.append, aborted.append, lambda: now[0], lambda: now[0])
    return watch, said, aborted, now


def test_the_abort_comes_after_its_own_limit_and_names_the_collective(tmp_path: Path) -> None:
    watch, said, aborted, now = watch_alone((2, 5))
    progress = ProgressFolder(tmp_path, 0)
    with watch.waiting(watch.started("world", (0, 1), "barrier() on 'world' in step 1, update")):
        for now[0] in (1.9, 2.0, 4.9):
            watch.tick(progress)
        assert (len(said), aborted) == (1, [])
        now[0] = 5.0
        watch.tick(progress)
    assert aborted == [
        "rank 0 has waited 5 s for barrier() on 'world' in step 1, update; not started yet by rank 1 (not heard of); "
        "--stall-abort-seconds have passed"
    ]


def test_no_abort_where_its_limit_is_0(tmp_path: Path) -> None:
    watch, said, aborted, now = watch_alone((2, 0))
    with watch.waiting(watch.started("world", (0, 1), "barrier()")):
        now[0] = 1e9
        watch.tick(ProgressFolder(tmp_path, 0))
    assert (len(said), aborted) == (1, [])


def test_while_a_job_is_suspended_nobody_waits(tmp_path: Path) -> None:
    """The watch finds out by itself: its thread wakes far too late. The clock jumps while it sleeps for a second."""
    watch, said, aborted, now = watch_alone((4, 5))
    looked = threading.Semaphore(0)
    tick = watch.tick
    watch.tick = lambda *given, **named: (tick(*given, **named), looked.release())  # type: ignore[method-assign]
    watch.communicator(SimpleNamespace(rank=0, size=2, label="world"))  # type: ignore[arg-type]
    with watch.running(tmp_path), watch.waiting(watch.started("world", (0, 1), "barrier()")):
        looked.acquire()
        now[0] = 3000.0
        looked.acquire()
        assert (said, aborted) == ([], [])
        now[0] += 3.9
        looked.acquire()
        assert (len(said), aborted) == (1, [])
        now[0] += 1.2
        looked.acquire()
    assert aborted[0].startswith("rank 0 has waited 6 s for barrier()")


def test_of_many_ranks_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    watch, said, _, now = watch_alone((2, 0))
    with watch.waiting(watch.started("world", tuple(range(20)), "barrier()")):
        now[0] = 3.0
        watch.tick(ProgressFolder(tmp_path, 0))
    assert said[0].count("not heard of") == 8
    assert said[0].endswith("rank 8 (not heard of) and 11 more")


def test_where_all_have_started_it_says_so_and_when_they_were_last_seen(tmp_path: Path) -> None:
    watch, said, _, now = watch_alone((2, 0))
    ProgressFolder(tmp_path, 1).write(Progress("n7", 0.0, "step 3, update", "", {"world": 1}))
    with watch.waiting(watch.started("world", (0, 1), "barrier()")):
        now[0] = 9.0
        watch.tick(ProgressFolder(tmp_path, 0))
    assert said == [
        "rank 0 has waited 9 s for barrier(), which all its ranks have started: rank 1 (seen 9 s ago on host n7 in "
        "step 3, update)"
    ]


def test_progress_is_removed_at_the_end_and_the_folder_with_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "progress"

    def fn(comm: Communicator) -> list[str]:
        watch = Watch(comm.rank, 60, 0)
        world = watch.communicator(comm)
        with watch.running(folder):
            world.barrier()
        return []

    run_ranks(3, fn)
    assert not folder.exists()


@pytest.mark.parametrize("limits_and_size", [((0, 1800), 2), ((60, 1800), 1)], ids=["no limit", "one rank"])
def test_no_watch_is_kept_without_need(tmp_path: Path, limits_and_size) -> None:
    limits, size = limits_and_size

    def fn(comm: Communicator) -> bool:
        watch = Watch(comm.rank, *limits)
        watch.communicator(comm)
        with watch.running(tmp_path / "progress"):
            return any("watch" in thread.name for thread in threading.enumerate())

    assert run_ranks(size, fn) == [False] * size


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    progress = ProgressFolder(tmp_path / "not" / "there", 0)
    progress.write(Progress("n7", 0.0, "", "", {}))
    assert progress.read(0) is None
    progress.remove()
    (tmp_path / "rank-00001.json").write_text('{"host": "n7"}')
    assert ProgressFolder(tmp_path, 0).read(1) is None


def test_a_place_is_the_threads_own() -> None:
    def fn(comm: Communicator) -> Place:
        enter("head", comm.rank)
        comm.barrier()
        return position().place

    before = position().place
    assert run_ranks(2, fn) == [Place("head", 0), Place("head", 1)]
    assert position().place == before
