"""Local ranks by each source; under real launchers in run_checks.py."""

import os
import threading

import pytest

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.placement import local_rank, ranks_on_node, ranks_sharing_cores
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks

BACKWARDS = ["2", "1", "0"]  # a launcher may number the ranks of a node as it likes


def places(environs: list[dict[str, str]]) -> list[tuple[int, int]]:
    def fn(comm: Communicator) -> tuple[int, int]:
        return local_rank(comm, environs[comm.rank]), ranks_on_node(comm, environs[comm.rank])

    return run_ranks(len(environs), fn)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"])
def test_the_launchers_number_counts(name: str) -> None:
    assert places([{name: number} for number in BACKWARDS]) == [(2, 3), (1, 3), (0, 3)]


def test_slurms_number_counts_only_if_it_is_about_this_rank() -> None:
    environs = [{"SLURM_LOCALID": number, "SLURM_PROCID": str(rank)} for rank, number in enumerate(BACKWARDS)]
    assert places(environs) == [(2, 3), (1, 3), (0, 3)]
    environs[1]["SLURM_PROCID"] = "0"
    assert places(environs) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("numbers", [["0", "0", "0"], ["1", "2", "3"], ["0", "1", ""]])
def test_numbers_that_do_not_count_the_ranks_of_the_node_are_ignored(numbers: list[str]) -> None:
    assert places([{"MPI_LOCALRANKID": number} for number in numbers]) == [(0, 3), (1, 3), (2, 3)]


def test_ranks_that_are_bound_to_cores_of_their_own_share_them_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_ranks(3, ranks_sharing_cores) == [3, 3, 3]
    cores = threading.local()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores.mine)

    def fn(comm: Communicator) -> int:
        cores.mine = {0, 1} if comm.rank < 2 else {2, 3}
        return ranks_sharing_cores(comm)

    assert run_ranks(3, fn) == [2, 2, 1]


def test_one_rank_is_the_first_of_its_node() -> None:
    comm = SerialCommunicator()
    assert (local_rank(comm, {"MPI_LOCALRANKID": "3"}), ranks_on_node(comm, {})) == (0, 1)
