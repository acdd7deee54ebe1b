"""Which rank of its node a rank is: the number that picks its GPU and its share of the cores."""

import os
import socket
from collections.abc import Mapping

from owt_mpi.comm.base import Communicator


def local_rank(comm: Communicator, environ: Mapping[str, str] = os.environ) -> int:
    """Return this rank's number among those of `comm` on its node, 0 .. ranks_on_node - 1. All ranks call."""
    return _place(comm, environ)[0]


def ranks_on_node(comm: Communicator, environ: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks of `comm` run on this rank's node. All ranks call."""
    return _place(comm, environ)[1]


def ranks_sharing_cores(comm: Communicator) -> int:
    """Return how many ranks of `comm` may run on the very cores that this rank may run on. All ranks call.

    All of a node's ranks where the launcher binds none, 1 where it binds each to cores of its own.
    """
    mine = (socket.gethostname(), sorted(os.sched_getaffinity(0)))
    return comm.all_gather_object(mine).count(mine)


def _place(comm: Communicator, environ: Mapping[str, str]) -> tuple[int, int]:
    """Return (local rank, ranks on this node) from the first source that is sound on all ranks.

    No launcher's variable is always there and right (nested launchers leave theirs behind), so one counts only if
    every host's ranks have the numbers 0, 1, ... by it. The last resort is to ask MPI who shares memory.
    """
    host = socket.gethostname()
    everyone = comm.all_gather_object((host, _claims(comm.rank, environ)))
    for source in range(len(everyone[0][1])):
        numbers: dict[str, list[int | None]] = {}
        for each_host, claims in everyone:
            numbers.setdefault(each_host, []).append(claims[source])
        if all(set(found) == set(range(len(found))) for found in numbers.values()):
            mine = everyone[comm.rank][1][source]
            assert mine is not None
            return mine, len(numbers[host])
    node = comm.split_by_node("node")
    return node.rank, node.size


def _claims(rank: int, environ: Mapping[str, str]) -> list[int | None]:
    """Return the local ranks that Open MPI, MPICH and SLURM (only if it means this very rank) give, None if absent."""
    slurm = environ.get("SLURM_LOCALID", "") if environ.get("SLURM_PROCID") == str(rank) else ""
    texts = (environ.get("OMPI_COMM_WORLD_LOCAL_RANK", ""), environ.get("MPI_LOCALRANKID", ""), slurm)
    return [int(text) if text.isdigit() else None for text in texts]
