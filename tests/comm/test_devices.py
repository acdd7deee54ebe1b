"""A process has a GPU of its own, or none of them has one."""

import os

import pytest

from owt_mpi.comm import devices
from owt_mpi.comm.devices import Place, check_own_device, check_places
from owt_mpi.comm.threads import run_ranks


@pytest.mark.parametrize(
    "places",
    [
        [Place("n1", 7, "A"), Place("n1", 8, "B"), Place("n2", 7, "A")],
        [Place("n1", 7, None), Place("n1", 8, None)],
        [Place("n1", 7, "A"), Place("n1", 7, "A")],  # virtual ranks
    ],
)
def test_a_gpu_a_process_is_fine_and_so_is_no_gpu_at_all(places):
    check_places(places)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            [Place("n1", 1, "A"), Place("n2", 1, "B"), Place("n2", 2, "B"), Place("n1", 2, "B")],
            "ranks 1, 2 share the GPU B on n2; start as many ranks a node",
        ),
        (
            [Place("n1", 1, "A"), Place("n2", 1, None), Place("n2", 2, None)],
            r"ranks 1, 2 \(the first on n2\) compute without a GPU",
        ),
    ],
)
def test_shared_and_missing_gpus_are_named_with_their_ranks(places, message):
    with pytest.raises(ValueError, match=message):
        check_places(places)


def test_all_ranks_hear_of_it():
    def errors(comm):
        with pytest.raises(ValueError, match=r"ranks 0, 2 .* compute without a GPU"):
            check_own_device(comm, [None, "A"][comm.rank % 2])
        return True

    assert all(run_ranks(3, errors))


def test_a_rank_says_which_process_it_is_in(monkeypatch):
    processes = iter([os.getpid(), os.getpid() + 1])
    monkeypatch.setattr(devices.os, "getpid", lambda: next(processes))
    with pytest.raises(ValueError, match="ranks 0, 1 share the GPU A"):
        run_ranks(2, lambda comm: check_own_device(comm, "A"))
