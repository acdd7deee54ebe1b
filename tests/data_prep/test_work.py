import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from data_prep.work import Stopped, WorkQueue


class Letters:
    """A mailbox in memory."""

    def __init__(self, rank: int, boxes: list["queue.SimpleQueue[tuple[int, Any]]"]) -> None:
        self.rank, self.size, self._boxes = rank, len(boxes), boxes

    def send(self, to: int, message: Any) -> None:
        self._boxes[to].put((self.rank, message))

    def receive(self) -> tuple[int, Any] | None:
        try:
            return self._boxes[self.rank].get_nowait()
        except queue.Empty:
            return None


def run_ranks(size: int, count: int, work: Callable[[int, WorkQueue], bool]) -> list[tuple[int, int]]:
    """Run `work(rank, queue)`, which tells whether it failed, on threads; return what rank 0 was shown."""
    boxes: list[queue.SimpleQueue[tuple[int, Any]]] = [queue.SimpleQueue() for _ in range(size)]
    shown: list[tuple[int, int]] = []

    def run(rank: int) -> None:
        work_queue = WorkQueue(Letters(rank, boxes), count, lambda images, rejected: shown.append((images, rejected)))
        work_queue.close(work(rank, work_queue))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert all(box.empty() for box in boxes)
    return shown


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_number_is_given_once_and_rank_0_is_shown_all_progress(size: int) -> None:
    taken: list[int] = []

    def work(rank: int, work_queue: WorkQueue) -> bool:
        while (number := work_queue.take()) is not None:
            taken.append(number)
            work_queue.report(number + 1, number % 2)
        return False

    shown = run_ranks(size, 23, work)
    assert sorted(taken) == list(range(23))
    assert sorted(shown) == [(number + 1, number % 2) for number in range(23)]


def test_a_rank_that_is_held_up_does_not_hold_the_others_up() -> None:
    others_done = threading.Event()
    taken: dict[int, list[int]] = {0: [], 1: []}

    def work(rank: int, work_queue: WorkQueue) -> bool:
        while (number := work_queue.take()) is not None:
            taken[rank].append(number)
            if rank == 1:
                assert others_done.wait(30)
            elif taken[1]:
                work_queue.report(1, 0)
                if len(taken[0]) + len(taken[1]) == 12:
                    others_done.set()
            else:
                while not taken[1]:  # rank 0 answers while it works
                    work_queue.report(1, 0)
        others_done.set()
        return False

    run_ranks(2, 12, work)
    assert len(taken[1]) == 1
    assert len(taken[0]) == 11


def test_ranks_begin_before_rank_0_listens_and_ask_ahead() -> None:
    has_begun, has_asked, is_answered = threading.Event(), threading.Event(), threading.Event()

    def work(rank: int, work_queue: WorkQueue) -> bool:
        if rank == 0:
            assert has_begun.wait(30)  # rank 0 has answered nothing yet
            assert work_queue.take() == 0
            assert has_asked.wait(30)
            work_queue.report(1, 0)
            is_answered.set()
            assert work_queue.take() == 3
            return False
        assert work_queue.take() == 1
        work_queue.ask()
        work_queue.ask()  # asks no second time
        has_begun.set()
        has_asked.set()
        assert is_answered.wait(30)
        assert work_queue.take() == 2
        return False

    run_ranks(2, 5, work)


@pytest.mark.parametrize("failing", [0, 2])
def test_all_ranks_stop_when_one_fails(failing: int) -> None:
    stopped: list[int] = []

    def work(rank: int, work_queue: WorkQueue) -> bool:
        if rank == failing:
            return True
        try:
            while True:  # work without an end
                if work_queue.take() is None:
                    work_queue.report(0, 0)
                work_queue.report(1, 0)
        except Stopped:
            stopped.append(rank)
        return False

    run_ranks(3, 5, work)
    assert sorted(stopped) == sorted({0, 1, 2} - {failing})
