"""The first steps, which take longer, are told from the others: by a clock that only the test moves."""

import pytest

from owt_mpi.accounts import Accounts, Times
from owt_mpi.comm.ledger import Ledger
from owt_mpi.comm.serial import SerialCommunicator

SECONDS = (16.0, 8.0, 1.0, 2.0, 3.0, 4.0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_the_first_two_steps_are_left_out_wherever_windows_end(window):
    clock, data_wait = Clock(), Clock()
    accounts = Accounts(Ledger(clock), data_wait, clock)
    for step, seconds in enumerate(SECONDS, start=1):
        clock.now += seconds
        data_wait.now += seconds / 4
        if step == 2:
            accounts.warmed_up(0, 2)
        with accounts.paused():
            clock.now += 100
        if step % window == 0:
            accounts.close_window(window, SerialCommunicator())
    assert accounts.warm(0) == (Times(10.0, 0.0, 2.5), 4)


def test_where_no_others_follow_the_first_count():
    clock = Clock()
    accounts = Accounts(Ledger(clock), Clock(), clock)
    assert accounts.warm(0) == (Times(), 0)
    clock.now += 24
    accounts.warmed_up(0, 2)
    accounts.close_window(2, SerialCommunicator())
    assert accounts.warm(0) == (Times(24.0), 2)
