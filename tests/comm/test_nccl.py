"""Arrays of a device cross by NCCL, enqueued on a stream of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.device_arrays import DeviceCommunicator
from owt_mpi.comm.nccl import NcclGroups, load_nccl
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.layout import Plan
from tests.comm.checks import CHECKS, values
from tests.comm.on_device import OnDevice
from tests.cuda_cpu import why_unavailable
from tests.fake_cupy import RACES, RaceError, stand_in
from tests.fake_nccl import nccl_stand_in
from tests.fake_nccl.module import NcclCommunicator
from tests.thread_patch import patched_in_thread
from tests.tiny import largest_difference, train_tiny, train_tiny_on


@pytest.fixture
def cupy() -> Iterator[Any]:
    with stand_in() as module, nccl_stand_in():
        yield module


def run_on_nccl(cupy: Any, size: int, fn: Callable[[DeviceCommunicator], Any]) -> list[Any]:
    """Return fn's results on `size` ranks, each with a stream of its own to compute on."""

    def rank(comm: Communicator) -> Any:
        nccl, _ = load_nccl()
        assert nccl is not None
        with cupy.cuda.Stream(non_blocking=True):
            return fn(DeviceCommunicator(comm, cupy, NcclGroups(nccl, cupy).lane))

    return run_ranks(size, rank)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_communicator_of_device_arrays(cupy: Any, check: Callable[[Communicator], None], size: int) -> None:
    run_on_nccl(cupy, size, lambda comm: check(OnDevice(comm, cupy)))
    assert RACES == []


def test_no_host_waits_for_a_device(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def total(comm: DeviceCommunicator) -> Any:
        x = cupy.asarray(values((5, 3), comm.rank)) + 1
        result = comm.start_all_reduce(x, x).wait() * 2
        assert not cupy.cuda.get_current_stream().done
        return result

    def not_now(*args: Any) -> None:
        raise AssertionError("the host waits")

    without_waiting = patched_in_thread(monkeypatch, cupy.cuda.Event, "synchronize", not_now)

    def run(comm: DeviceCommunicator) -> np.ndarray:
        with without_waiting():
            result = total(comm)
        return result.get()

    expected = 2 * (values((5, 3), 0) + values((5, 3), 1)) + 4
    for result in run_on_nccl(cupy, 2, run):
        np.testing.assert_array_equal(result, expected)
    assert RACES == []


def test_a_group_and_its_duplicates_share_one_nccl_communicator(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int]] = []
    init = NcclCommunicator.__init__

    def counting(self: Any, ndev: int, unique_id: bytes, rank: int) -> None:
        made.append((ndev, rank))
        init(self, ndev, unique_id, rank)

    monkeypatch.setattr(NcclCommunicator, "__init__", counting)

    def fn(comm: DeviceCommunicator) -> None:
        comm.dup("twin").dup("triplet")
        comm.split(comm.rank // 2, 0, "pair")
        comm.split(comm.rank, 0, "alone")

    run_on_nccl(cupy, 4, fn)
    assert sorted(made) == [(2, 0), (2, 0), (2, 1), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)]


@pytest.mark.parametrize("skipped", ["its stream", "the caller's stream"])
def test_a_wait_of_a_stream_that_is_left_out_is_a_race(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, skipped: str
) -> None:
    def total(comm: DeviceCommunicator) -> np.ndarray:
        x = cupy.asarray(values((5, 3), comm.rank)) + 1
        return (comm.start_all_reduce(x).wait() + 1).get()

    run_on_nccl(cupy, 2, total)
    assert RACES == []
    wait_event = cupy.cuda.Stream.wait_event

    def wait_but(stream: Any, event: Any) -> None:
        is_callers = stream is cupy.cuda.get_current_stream()
        if is_callers == (skipped == "its stream"):
            wait_event(stream, event)

    monkeypatch.setattr(cupy.cuda.Stream, "wait_event", wait_but)
    with pytest.raises(RaceError):
        run_on_nccl(cupy, 2, total)


def test_a_sum_in_a_type_that_nccl_lacks_is_refused(cupy: Any) -> None:
    def fn(comm: DeviceCommunicator) -> None:
        x = cupy.zeros(4, np.uint16)
        np.testing.assert_array_equal(comm.start_all_gather(x).wait().get(), np.zeros(8))
        with pytest.raises(ValueError, match="NCCL makes no sums of uint16; convert it to int8"):
            comm.start_all_reduce(x)

    run_on_nccl(cupy, 2, fn)


def test_the_version_is_told_and_so_is_why_there_is_none(cupy: Any) -> None:
    nccl, version = load_nccl()
    assert nccl is not None
    assert version == "NCCL 2.23.4"
    nccl.available = False
    assert load_nccl() == (None, "CuPy finds no NCCL library (pip install nvidia-nccl-cu12, or load your cluster's)")


def test_without_the_module_it_says_so() -> None:
    with stand_in():
        nccl, reason = load_nccl()
    assert nccl is None
    assert reason.startswith("CuPy does not load: ")


@pytest.mark.parametrize("scheme", ["a", "c", "d"])
def test_the_tiny_network_trains_as_on_one_rank(monkeypatch: pytest.MonkeyPatch, scheme: Any) -> None:
    if why_unavailable() is not None:
        pytest.skip(str(why_unavailable()))

    def over_nccl(comm: Communicator, backend: Any) -> Communicator:
        nccl, _ = load_nccl()
        backend.synchronize()  # makes its stream the thread's
        return DeviceCommunicator(comm, backend.xp, NcclGroups(nccl, backend.xp).lane)

    def train(comm: Communicator) -> Any:
        return train_tiny(comm, Plan(2, scheme), dtype="float32", num_steps=2, backend=CudaBackend())

    expected = train_tiny_on(Plan(1), dtype="float32", num_steps=2)
    monkeypatch.setattr("tests.tiny.staged", over_nccl)
    with stand_in(), nccl_stand_in():
        for parameters, losses in run_ranks(2, train):
            assert largest_difference(parameters, expected[0]) < 2e-6
            np.testing.assert_allclose(losses, expected[1], rtol=2e-6)
    assert RACES == []
