"""Whether every process has a GPU of its own."""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from owt_mpi.comm.base import Communicator


class Place(NamedTuple):
    """Where a rank computes: `device` is what names its GPU on the host, None without one."""

    host: str
    process: int
    device: str | None


def check_own_device(comm: Communicator, device: str | None) -> None:
    """Raise ValueError, on all ranks, unless each process has a GPU of its own or none has one. All ranks call.

    `device` is what names this rank's GPU on its node, None without one. Virtual ranks, in one process, may share.
    """
    check_places(comm.all_gather_object(Place(socket.gethostname(), os.getpid(), device)))


def check_places(places: Sequence[Place]) -> None:
    """Raise ValueError if two processes compute on one GPU, or some on a GPU and others on none; ranks are in order."""
    without = [rank for rank, place in enumerate(places) if place.device is None]
    if len(without) == len(places):
        return
    if without:
        raise ValueError(
            f"ranks {_listed(without)} (the first on {places[without[0]].host}) compute without a GPU, the others with "
            "one; give every rank a GPU, or choose --backend onednn for all"
        )
    for place in places:
        sharing = [rank for rank, other in enumerate(places) if other._replace(process=place.process) == place]
        if len({places[rank].process for rank in sharing}) > 1:
            raise ValueError(
                f"ranks {_listed(sharing)} share the GPU {place.device} on {place.host}; start as many ranks a node as "
                "it has GPUs, each seeing all of them or one of its own (srun --ntasks-per-node=N --gpus-per-node=N), "
                "or choose --backend onednn"
            )


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
