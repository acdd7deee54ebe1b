"""Which rank is slow, told from clocks that only the test moves."""

import numpy as np
import pytest

from owt_mpi.accounts import Accounts, Times
from owt_mpi.comm.ledger import Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.stragglers import awaited_rank, rank_lines


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class ClockedCommunicator:
    """`inner`, whose waits set the rank's clock to the moment at which the last rank started."""

    def __init__(self, inner, clock):
        self.rank, self.size, self.label = inner.rank, inner.size, inner.label
        self._inner, self._clock = inner, clock

    def start_all_reduce(self, x, out=None):
        starts = self._inner.start_all_gather(np.array([self._clock.now]))
        pending = self._inner.start_all_reduce(x, out)
        clock = self._clock

        class Clocked:
            def wait(self):
                clock.now = max(clock.now, float(starts.wait().max()))
                return pending.wait()

        return Clocked()

    def all_gather_object(self, value):
        return self._inner.all_gather_object(value)


def times_of_ranks(compute_seconds, data_seconds, num_steps=4):
    """Return the times of ranks whose steps take as long as given, with an exchange at the end of each."""

    slowest = max(np.add(compute_seconds, data_seconds))

    def run(comm):
        clock, data_wait = Clock(), Clock()
        ledger = Ledger(clock)
        world = MeteredCommunicator(ClockedCommunicator(comm, clock), ledger)
        accounts = Accounts(ledger, data_wait, clock)
        for window in range(2):
            for _ in range(num_steps // 2):
                clock.now += compute_seconds[comm.rank] + data_seconds[comm.rank]
                data_wait.now += data_seconds[comm.rank]
                world.start_all_reduce(np.ones(3)).wait()
            with accounts.paused():
                clock.now += 100 * (comm.rank + window)
                world.start_all_reduce(np.ones(3)).wait()
            ranks, _ = accounts.close_window(num_steps // 2, world)
            assert [each.steps for each in ranks] == [2 * slowest] * comm.size
        return accounts.ranks, accounts.num_steps

    everyone = run_ranks(len(compute_seconds), run)
    assert all(each == everyone[0] for each in everyone)
    return everyone[0]


def test_the_rank_that_computes_longest_is_the_one_awaited():
    ranks, num_steps = times_of_ranks([1, 1, 3, 2], [0, 0, 0, 0])
    assert [each.exchange_wait for each in ranks] == [8, 8, 0, 4]
    assert awaited_rank(ranks) == 2
    lines = rank_lines(ranks, num_steps)
    assert [line.split() for line in lines[2:6]] == [
        ["0", "3000.00", "2000.00", "0.00"],
        ["1", "3000.00", "2000.00", "0.00"],
        ["2", "3000.00", "0.00", "0.00"],
        ["3", "3000.00", "1000.00", "0.00"],
    ]
    assert lines[-1].startswith("the others waited for rank 2: for exchanges 55.6% of the time longer")
    assert lines[-1].endswith("it took longer to compute meanwhile")


def test_a_rank_that_waits_for_data_is_told_from_one_that_computes():
    lines = rank_lines(*times_of_ranks([2, 2, 2], [0, 4, 1]))
    assert lines[-1].startswith("the others waited for rank 1:")
    assert lines[-1].endswith("it waited for data meanwhile")


@pytest.mark.parametrize(("other_wait", "expected"), [(0.9, None), (1.1, 1)])
def test_a_small_spread_names_nobody(other_wait, expected):
    ranks = [Times(10, 2 + other_wait, 0), Times(10, 2, 0), Times(10, 2 + other_wait, 0)]
    assert awaited_rank(ranks) == expected
    assert ("no rank held up" in rank_lines(ranks, 1)[-1]) == (expected is None)


def test_of_many_ranks_those_that_waited_least_are_shown():
    ranks = [Times(10, (7 * rank) % 40 / 10, 0) for rank in range(40)]
    lines = rank_lines(ranks, 1)
    assert lines[0] == "the 16 of 40 ranks that waited least, ms a step:"
    assert sorted(int(line.split()[0]) for line in lines[2:-1]) == sorted(r for r in range(40) if (7 * r) % 40 < 16)


def test_one_rank_waits_for_nobody():
    assert awaited_rank([Times(1, 0, 0)]) is None
    assert rank_lines([Times(1, 0, 0)], 1) == []
