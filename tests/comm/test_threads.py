"""Threads as ranks: what K processes cannot check, failure of a rank, disagreement and deadlock."""

import signal
import threading

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator, PeerFailure
from owt_mpi.comm.threads import run_ranks


def test_results_come_in_rank_order() -> None:
    assert run_ranks(3, lambda comm: (comm.rank, comm.size, comm.label)) == [(rank, 3, "world") for rank in range(3)]


def test_the_input_may_change_after_start_on_this_transport() -> None:
    def fn(comm: Communicator) -> list[float]:
        x = np.full(2, comm.rank + 1.0)
        pending = comm.start_all_reduce(x)
        x[...] = np.nan
        return list(pending.wait())

    assert run_ranks(2, fn) == [[3.0, 3.0]] * 2


def test_sums_are_the_same_bits_on_every_rank() -> None:
    def fn(comm: Communicator) -> bytes:
        x = np.random.default_rng(comm.rank).normal(size=1000).astype(np.float32)
        return bytes(comm.start_all_reduce(x).wait())

    first = run_ranks(4, fn)
    assert len(set(first)) == 1
    assert run_ranks(4, fn) == first


def test_start_does_not_wait_for_the_others() -> None:
    rank_0_started = threading.Event()

    def fn(comm: Communicator) -> float:
        if comm.rank == 1:
            rank_0_started.wait()
        pending = comm.start_all_reduce(np.ones(1))
        rank_0_started.set()
        return float(pending.wait()[0])

    assert run_ranks(2, fn) == [2.0, 2.0]


def test_the_error_of_the_failing_rank_is_raised_and_the_others_are_released() -> None:
    seen: dict[int, BaseException] = {}

    def fn(comm: Communicator) -> None:
        if comm.rank == 1:
            raise KeyError("shard 7")
        try:
            comm.barrier()
        except PeerFailure as error:
            seen[comm.rank] = error
            raise

    with pytest.raises(KeyError, match="shard 7") as caught:
        run_ranks(3, fn)
    assert caught.value.__notes__ == ["raised on rank 1 of 3 (ranks are threads)"]
    assert sorted(seen) == [0, 2]
    assert "rank 1 failed with KeyError: 'shard 7'" in str(seen[0])


def test_the_lowest_of_two_failing_ranks_is_reported() -> None:
    both = threading.Barrier(2)

    def fn(comm: Communicator) -> None:
        if comm.rank > 0:
            both.wait()
            raise ValueError(f"from {comm.rank}")
        comm.barrier()

    with pytest.raises(ValueError, match="from 1"):
        run_ranks(3, fn)


@pytest.mark.parametrize(
    ("start_on_rank_1", "named"),
    [
        (lambda comm: comm.start_all_reduce(np.ones(3, np.float32)), r"all_reduce\(float32, \(3,\)\)"),
        (lambda comm: comm.start_all_reduce(np.ones(2, np.float64)), r"all_reduce\(float64, \(2,\)\)"),
        (lambda comm: comm.start_all_gather(np.ones(2, np.float32)), r"all_gather\(float32, \(2,\), axis=0\)"),
        (lambda comm: comm.barrier(), "barrier"),
    ],
    ids=["shape", "dtype", "operation", "object"],
)
def test_ranks_that_start_different_collectives_are_both_named(start_on_rank_1, named: str) -> None:
    def fn(comm: Communicator) -> None:
        if comm.rank == 0:
            comm.start_all_reduce(np.ones(2, np.float32)).wait()
        else:
            start_on_rank_1(comm)

    with pytest.raises(ValueError, match=named) as caught:
        run_ranks(2, fn)
    assert "all_reduce(float32, (2,)) on 'world'" in str(caught.value)


def test_a_rank_that_returns_early_does_not_leave_the_others_waiting() -> None:
    def fn(comm: Communicator) -> None:
        if comm.rank != 1:
            comm.barrier()

    with pytest.raises(RuntimeError, match=r"rank 0 waits for barrier on 'world'; rank 1 has returned"):
        run_ranks(2, fn)


def test_ranks_that_order_two_communicators_differently_deadlock_with_a_message() -> None:
    def fn(comm: Communicator) -> None:
        one, two = comm.dup("one"), comm.dup("two")
        order = [one, two] if comm.rank == 0 else [two, one]
        for pending in [order[0].start_all_reduce(np.ones(1)), order[1].start_all_gather(np.ones(1))]:
            pending.wait()

    def same_call(comm: Communicator) -> None:
        one, two = comm.dup("one"), comm.dup("two")
        order = [one, two] if comm.rank == 0 else [two, one]
        for pending in [each.start_all_reduce(np.ones(1)) for each in order]:
            pending.wait()

    with pytest.raises(ValueError, match="disagree"):
        run_ranks(2, fn)
    with pytest.raises(RuntimeError, match=r"deadlock.*on 'one'.*on 'two'"):
        run_ranks(2, same_call)


def test_a_collective_that_nobody_waits_for_completes() -> None:
    def fn(comm: Communicator) -> float:
        comm.start_all_reduce(np.ones(1))
        return float(comm.start_all_reduce(np.full(1, comm.rank + 1.0)).wait()[0])

    assert run_ranks(2, fn) == [3.0, 3.0]


def test_ctrl_c_releases_waiting_and_working_ranks() -> None:
    released: dict[int, str] = {}

    def fn(comm: Communicator) -> None:
        alone = comm.split(color=comm.rank, key=0, label="alone")
        try:
            if comm.rank == 0:
                comm.barrier()  # rank 1 never comes
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            while True:
                alone.barrier()
        except PeerFailure as error:
            released[comm.rank] = str(error)
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_ranks(2, fn)
    finally:
        signal.signal(signal.SIGINT, before)
    assert released == dict.fromkeys(range(2), "the main thread was interrupted")
