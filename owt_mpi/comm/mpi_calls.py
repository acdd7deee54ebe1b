"""The blocking calls of MPI on buffers of the host, or of a device where the library takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from owt_mpi.comm.base import Array


class MpiCalls:
    """Calls of the mpi4py communicator `comm`, made by the communication thread alone.

    MPI touches a device's buffers without regard for streams: all work on them is over before a call is made.
    """

    def __init__(self, comm: Any, in_place: Any) -> None:
        self._comm, self._in_place = comm, in_place

    def all_reduce(self, x: Array, out: Array) -> None:
        """Sum by MPI_Allreduce, in place where `out` is x."""
        self._comm.Allreduce(self._in_place if x is out else x, out)

    def all_gather(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Join by MPI_Allgather where all give as much, MPI_Bcast where one host gives all, else MPI_Allgatherv.

        With unequal counts MPICH pipelines in small parts, which is slow where ranks share cores.
        """
        givers = [rank for rank, count in enumerate(counts) if count > 0]
        if len(givers) == 1 and isinstance(out, np.ndarray):
            if self._comm.rank == givers[0]:
                out[...] = x
            self._comm.Bcast(out, givers[0])
        elif len(set(counts)) == 1:
            self._comm.Allgather(x, out)
        else:
            self._comm.Allgatherv(x, (out, counts))

    def reduce_scatter(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Sum by MPI_Reduce_scatter_block where all get as much, else by MPI_Reduce_scatter."""
        if len(set(counts)) == 1:
            self._comm.Reduce_scatter_block(x, out)
        else:
            self._comm.Reduce_scatter(x, out, recvcounts=counts)

    def broadcast(self, x: Array, root: int) -> None:
        self._comm.Bcast(x, root)

    def reduce(self, x: Array, out: Array | None, root: int) -> None:
        """Sum by MPI_Reduce, in place where root's `out` is x."""
        self._comm.Reduce(self._in_place if x is out else x, out, root=root)

    def all_to_all(self, x: Array, out: Array) -> None:
        self._comm.Alltoall(x, out)

    def send_object(self, value: object, to: int) -> Any:
        """Start to send a picklable value by MPI_Isend and return the request."""
        return self._comm.isend(value, to)

    def receive_object(self) -> Any:
        """Return a value that has come from any rank, None if there is none: MPI_Iprobe, then MPI_Recv."""
        return self._comm.recv() if self._comm.iprobe() else None
