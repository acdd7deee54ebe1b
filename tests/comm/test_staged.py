"""Arrays of a device cross as copies on the host, whatever the collective."""

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.staged import StagedCommunicator, staged
from owt_mpi.comm.threads import run_ranks
from tests.comm.checks import CHECKS, values
from tests.cuda_backend import cuda_backend
from tests.fake_cupy import RACES

COLLECTIVES = {
    "all_reduce": lambda comm, x: comm.start_all_reduce(x),
    "all_gather": lambda comm, x: comm.start_all_gather(x, 1),
    "reduce_scatter": lambda comm, x: comm.start_reduce_scatter(x, 0),
    "all_gather_rows": lambda comm, x: comm.start_all_gather_rows(x[: comm.rank], range(comm.size)),
    "reduce_scatter_rows": lambda comm, x: comm.start_reduce_scatter_rows(x[1:], [len(x) - 1] + [0] * (comm.size - 1)),
    "broadcast": lambda comm, x: comm.start_broadcast(x, comm.size - 1),
    "reduce": lambda comm, x: comm.start_reduce(x, 0),
    "all_to_all": lambda comm, x: comm.start_all_to_all(x, 0, 1),
}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("collective", COLLECTIVES.values(), ids=COLLECTIVES)
def test_an_array_of_the_device_crosses_as_the_hosts_does(collective, size):
    def results(comm):
        x = values((6, 4), comm.rank) - 3
        expected = collective(comm, x).wait()
        pending = collective(staged(comm, backend), backend.from_host(x))
        result = pending.wait()
        assert pending.wait() is result
        if expected is None:
            assert result is None
            return
        assert isinstance(result, backend.xp.ndarray)
        np.testing.assert_array_equal(backend.to_host(result), expected, strict=True)

    with cuda_backend() as backend:
        run_ranks(size, results)
    assert RACES == []


def test_a_sum_is_written_to_the_array_that_was_given():
    def sum_in_place(comm):
        x = values((3, 5), comm.rank)
        array = backend.from_host(x)
        assert staged(comm, backend).start_all_reduce(array, array).wait() is array
        np.testing.assert_array_equal(backend.to_host(array), comm.start_all_reduce(x).wait())

    with cuda_backend() as backend:
        for size in (1, 2):
            run_ranks(size, sum_in_place)


def test_what_is_not_contiguous_is_refused_on_the_device_too():
    with cuda_backend() as backend:
        x = backend.from_host(values((3, 4), 0))
        for size in (1, 2):
            with pytest.raises(ValueError, match="not C-contiguous"):
                run_ranks(size, lambda comm: staged(comm, backend).start_all_gather(x.T))


def test_the_work_that_makes_an_array_is_waited_for():
    def total(comm):
        x = backend.from_host(values((4, 3), comm.rank))
        return backend.to_host(staged(comm, backend).start_all_reduce(2 * x + 1).wait())

    with cuda_backend() as backend:
        expected = 2 * (values((4, 3), 0) + values((4, 3), 1)) + 2
        np.testing.assert_array_equal(run_ranks(2, total)[0], expected)


def test_one_rank_keeps_its_arrays_on_the_device(monkeypatch):
    with cuda_backend() as backend:
        x = backend.from_host(values((4, 3), 0))
        monkeypatch.setattr(backend, "to_host", None)
        result = staged(SerialCommunicator(), backend).start_all_gather(x).wait()
        monkeypatch.undo()
        np.testing.assert_array_equal(backend.to_host(result), values((4, 3), 0))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_host_arrays_go_through(check):
    run_ranks(2, lambda comm: check(StagedCommunicator(comm, ReferenceBackend())))


def test_a_backend_of_the_host_needs_no_staging():
    comm = SerialCommunicator()
    assert staged(comm, ReferenceBackend()) is comm
