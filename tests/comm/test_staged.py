"""Arrays of a device cross in chunks through pinned memory, whatever the collective, and nothing is out of order."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.calls import CommunicatorCalls
from owt_mpi.comm.comm_thread import CommThread
from owt_mpi.comm.device_arrays import DeviceCommunicator
from owt_mpi.comm.ledger import Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.staged import DirectLane, StagedLane, Staging, staged
from owt_mpi.comm.threads import run_ranks
from tests.comm.checks import CHECKS, all_values, values
from tests.comm.on_device import OnDevice
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES, RaceError, stand_in

CHUNK_BYTES = 40  # arrays of the checks are cut into many, with tails


@pytest.fixture
def cupy() -> Iterator[Any]:
    with stand_in() as module:
        yield module


def on_staging(comm: Communicator, cupy: Any, chunk_bytes: int = CHUNK_BYTES) -> DeviceCommunicator:
    staging = Staging(cupy, 0, chunk_bytes)
    return DeviceCommunicator(comm, cupy, lambda inner: StagedLane(inner, staging))


def with_thread(comm: Any) -> tuple[Communicator, CommThread]:
    """Return `comm` with a communication thread, such as MPI has."""
    thread = CommThread()
    comm.calls, comm.submit = CommunicatorCalls(comm), thread.submit
    return comm, thread


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_communicator_of_device_arrays(cupy: Any, check: Callable[[Communicator], None], size: int) -> None:
    run_ranks(size, lambda comm: check(OnDevice(on_staging(comm, cupy), cupy)))
    assert RACES == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_host_arrays_go_through(cupy: Any, check: Callable[[Communicator], None]) -> None:
    run_ranks(2, lambda comm: check(on_staging(comm, cupy)))


@pytest.mark.parametrize("chunk_bytes", [4, 12, 400, 4000])
def test_chunks_of_any_size_give_the_same_sums(cupy: Any, chunk_bytes: int) -> None:
    def total(comm: Communicator) -> np.ndarray:
        x = cupy.asarray(values((7, 13), comm.rank)) * 2
        return on_staging(comm, cupy, chunk_bytes).start_all_reduce(x, x).wait().get()

    for result in run_ranks(3, total):
        np.testing.assert_array_equal(result, 2 * sum(values((7, 13), rank) for rank in range(3)))


def test_sums_follow_one_another_in_the_same_pinned_memory(cupy: Any) -> None:
    def totals(comm: Communicator) -> list[np.ndarray]:
        comm, thread = with_thread(comm)
        device_comm = on_staging(comm, cupy)
        pendings = [device_comm.start_all_reduce(cupy.asarray(values((41,), comm.rank, salt=i)) + 1) for i in range(6)]
        results = [(pending.wait() * 2).get() for pending in pendings]
        thread.close()
        return results

    for results in run_ranks(2, totals):
        for salt, result in enumerate(results):
            expected = 2 * (values((41,), 0, salt=salt) + values((41,), 1, salt=salt)) + 4
            np.testing.assert_array_equal(result, expected)
    assert RACES == []


def test_the_host_waits_for_the_compute_stream_neither_at_the_start_nor_at_the_end(cupy: Any) -> None:
    def fn(comm: Communicator) -> None:
        comm, thread = with_thread(comm)
        device_comm, gate = on_staging(comm, cupy), threading.Event()
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            thread.submit(gate.wait)
            x = cupy.asarray(values((41,), comm.rank)) + 1
            before = stream.record()
            pending = device_comm.start_all_reduce(x)
            assert not before.done
            after_start = cupy.asarray(values((5,), 0)) + 1  # computes while the sum is on its way
            kept_back = stream.record()
            gate.set()
            result = pending.wait()
            assert before.done, "the thread had to wait for this"
            assert not kept_back.done
            arrived = stream.record()
            np.testing.assert_array_equal(result.get(), values((41,), 0) + values((41,), 1) + 2)
            assert arrived.done
            assert after_start.shape == (5,)
        thread.close()

    run_ranks(2, fn)
    assert RACES == []


def test_the_transfer_is_timed_where_it_is_made_and_counted_once(cupy: Any) -> None:
    def flows(comm: Communicator) -> list[tuple[str, int, int]]:
        comm, thread = with_thread(comm)
        ledger = Ledger()
        metered = MeteredCommunicator(on_staging(comm, cupy), ledger)
        pending = metered.start_all_reduce(cupy.asarray(values((41,), comm.rank)))
        [transfer] = ledger._under_way
        pending.wait()
        thread.close()
        assert transfer.interval() is not None
        return [(key.collective, flow.calls, flow.sent_bytes) for key, flow in ledger.take().items()]

    assert run_ranks(2, flows) == [[("all_reduce", 1, 41 * 4)]] * 2


# mistakes


class _Skipping:
    """Leaves out one of the waits of a stream for an event, by the number of the rank's wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cupy: Any, skipped: int) -> None:
        self._number = threading.local()
        wait_event = cupy.cuda.Stream.wait_event

        def wait_but_one(stream: Any, event: Any) -> None:
            number = getattr(self._number, "value", 0)
            self._number.value = number + 1
            if number != skipped:
                wait_event(stream, event)

        monkeypatch.setattr(cupy.cuda.Stream, "wait_event", wait_but_one)


@pytest.mark.parametrize("skipped", [0, 1], ids=["copy from device", "caller"])
def test_a_wait_of_a_stream_that_is_left_out_is_a_race(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, skipped: int
) -> None:
    def total(comm: Communicator) -> np.ndarray:
        x = cupy.asarray(values((41,), comm.rank)) + 1
        return (on_staging(comm, cupy).start_all_reduce(x).wait() + 1).get()

    run_ranks(2, total)
    assert RACES == []
    _Skipping(monkeypatch, cupy, skipped)
    with pytest.raises(RaceError):
        run_ranks(2, total)


def test_a_host_that_does_not_wait_for_its_copy_is_noticed(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def total(comm: Communicator) -> np.ndarray:
        return on_staging(comm, cupy).start_all_reduce(cupy.asarray(values((41,), comm.rank)) + 1).wait().get()

    assert not np.isnan(run_ranks(2, total)[0]).any()
    monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda event: None)
    with pytest.raises(RaceError):
        run_ranks(2, total)


def test_a_call_on_device_memory_that_does_not_wait_is_a_race(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA-aware MPI would be called; that it is MPI which reads the memory is for test_device_mpi.py."""

    class Reads:
        def all_reduce(self, x: Any, out: Any) -> None:
            assert x.__cuda_array_interface__["data"]

    def start(comm: Any) -> None:
        comm, _ = with_thread(comm)
        comm.calls = Reads()
        device_comm = DeviceCommunicator(comm, cupy, lambda inner: DirectLane(inner, cupy, 0))
        device_comm.start_all_reduce(cupy.asarray(values((41,), comm.rank)) + 1).wait()

    run_ranks(2, start)
    assert RACES == []
    monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda event: None)
    with pytest.raises(RaceError):
        run_ranks(2, start)


# around a backend


def test_a_backend_of_the_host_needs_no_staging() -> None:
    comm = SerialCommunicator()
    assert staged(comm, ReferenceBackend()) is comm


def test_one_rank_keeps_its_arrays_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_backend() as backend:
        comm = staged(SerialCommunicator(), backend)
        x = backend.from_host(values((4, 3), 0))
        monkeypatch.setattr(backend.xp.cuda, "alloc_pinned_memory", None)
        result = comm.start_all_gather(x).wait()
        np.testing.assert_array_equal(backend.to_host(result), values((4, 3), 0))


def test_arrays_of_a_backend_cross_on_its_stream() -> None:
    def total(comm: Communicator) -> np.ndarray:
        device_comm = staged(comm, backend)
        x = backend.from_host(values((4, 3), comm.rank))
        return backend.to_host(device_comm.start_all_reduce(2 * x + 1).wait())

    with cuda_backend() as backend:
        expected = 2 * sum(all_values(SerialCommunicator(), (4, 3))) + 2 * values((4, 3), 1) + 2
        np.testing.assert_array_equal(run_ranks(2, total)[0], expected)
    assert RACES == []


def test_overlapping_arrays_are_refused(cupy: Any) -> None:
    def fn(comm: Communicator) -> None:
        x = cupy.zeros(8, np.float32)
        with pytest.raises(ValueError, match="overlap in memory"):
            on_staging(comm, cupy).start_all_reduce(x[:6], x[2:])

    run_ranks(2, fn)
