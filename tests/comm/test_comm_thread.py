"""The communication thread, without MPI."""

import threading

import pytest

from owt_mpi.comm.comm_thread import CommThread


def test_calls_run_in_order_on_one_thread_and_do_not_block_who_hands_them_in() -> None:
    thread, go, order = CommThread(), threading.Event(), []
    first = thread.submit(lambda: (go.wait(), order.append(1), threading.get_ident())[-1])
    second = thread.submit(lambda: (order.append(2), threading.get_ident())[-1])
    assert not second.is_done_within(0)
    go.set()
    assert second.wait() == first.wait() != threading.get_ident()
    assert order == [1, 2]
    thread.close()


def test_an_error_is_raised_by_wait_by_every_later_call_and_by_close() -> None:
    thread, later_calls = CommThread(), []

    def fail() -> None:
        raise OSError("connection lost")

    failing = thread.submit(fail)
    later = thread.submit(lambda: later_calls.append(1))
    for _ in range(2):
        with pytest.raises(OSError, match="connection lost"):
            failing.wait()
    with pytest.raises(RuntimeError, match="an earlier MPI call failed: connection lost"):
        later.wait()
    with pytest.raises(OSError, match="connection lost"):
        thread.close()
    assert later_calls == []


def test_close_runs_what_was_handed_in() -> None:
    thread, done = CommThread(), []
    thread.submit(lambda: done.append(1))
    thread.close()
    assert done == [1]
