"""The transport over NCCL, through CuPy: collectives are enqueued on a stream of their own, and no host waits.

One NCCL communicator serves a group of ranks and its duplicates, since all collectives of a process run on one stream,
in the order in which they were started.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from owt_mpi.comm.base import Array, Communicator, Done, Pending
from owt_mpi.comm.buffers import blocks_of
from owt_mpi.comm.calls import Calls
from owt_mpi.comm.device_arrays import Event

_SUMMED = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float32", "float64")  # of which NCCL makes sums


def load_nccl() -> tuple[ModuleType | None, str]:
    """Return (cupy.cuda.nccl, its version), or (None, why it cannot be used)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's own account of the missing library
            from cupy.cuda import nccl
    except ImportError as error:
        return None, f"CuPy does not load: {error}"
    if not nccl.available:
        return None, "CuPy finds no NCCL library (pip install nvidia-nccl-cu12, or load your cluster's)"
    version = nccl.get_version()
    return nccl, f"NCCL {version // 10000}.{version // 100 % 100}.{version % 100}"


class NcclCalls:
    """Calls on flat device buffers, enqueued on `stream`."""

    def __init__(self, nccl: ModuleType, communicator: Any, stream: Any) -> None:
        self._nccl, self._comm, self._stream = nccl, communicator, stream
        self._rank: int = communicator.rank_id()
        self._size: int = communicator.size()

    def all_reduce(self, x: Array, out: Array) -> None:
        """Sum, in place where `out` is x."""
        self._comm.allReduce(x.data.ptr, out.data.ptr, x.size, self._type(x), self._nccl.NCCL_SUM, self._stream.ptr)

    def all_gather(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Join by ncclAllGather where all give as much, else by grouped sends and receives."""
        if len(set(counts)) == 1:
            self._comm.allGather(x.data.ptr, out.data.ptr, x.nbytes, self._nccl.NCCL_UINT8, self._stream.ptr)
            return
        with self._group():
            if x.size:
                for peer in range(self._size):
                    self._send(x, peer)
            for peer, block in enumerate(blocks_of(out, counts)):
                if block.size:
                    self._receive(block, peer)

    def reduce_scatter(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        """Sum by ncclReduceScatter where all get as much, else by a grouped ncclReduce to each rank."""
        kind, ptr = self._type(x), self._stream.ptr
        if len(set(counts)) == 1:
            self._comm.reduceScatter(x.data.ptr, out.data.ptr, out.size, kind, self._nccl.NCCL_SUM, ptr)
            return
        with self._group():
            for root, block in enumerate(blocks_of(x, counts)):
                if block.size:
                    target = out.data.ptr if root == self._rank else 0
                    self._comm.reduce(block.data.ptr, target, block.size, kind, self._nccl.NCCL_SUM, root, ptr)

    def broadcast(self, x: Array, root: int) -> None:
        self._comm.broadcast(x.data.ptr, x.data.ptr, x.nbytes, self._nccl.NCCL_UINT8, root, self._stream.ptr)

    def reduce(self, x: Array, out: Array | None, root: int) -> None:
        target = 0 if out is None else out.data.ptr
        self._comm.reduce(x.data.ptr, target, x.size, self._type(x), self._nccl.NCCL_SUM, root, self._stream.ptr)

    def all_to_all(self, x: Array, out: Array) -> None:
        """Exchange by grouped sends and receives."""
        counts = [x.size // self._size] * self._size
        with self._group():
            if x.size:
                for peer, (sent, received) in enumerate(zip(blocks_of(x, counts), blocks_of(out, counts), strict=True)):
                    self._send(sent, peer)
                    self._receive(received, peer)

    def _send(self, x: Array, peer: int) -> None:
        self._comm.send(x.data.ptr, x.nbytes, self._nccl.NCCL_UINT8, peer, self._stream.ptr)

    def _receive(self, x: Array, peer: int) -> None:
        self._comm.recv(x.data.ptr, x.nbytes, self._nccl.NCCL_UINT8, peer, self._stream.ptr)

    @contextmanager
    def _group(self) -> Iterator[None]:
        self._nccl.groupStart()
        try:
            yield
        finally:
            self._nccl.groupEnd()

    def _type(self, x: Array) -> int:
        """Return NCCL's number for the type of x, which is to be summed. ValueError if it has none."""
        name = np.dtype(x.dtype).name
        if name not in _SUMMED:
            raise ValueError(f"NCCL makes no sums of {name}; convert it to {', '.join(_SUMMED)}")
        return int(getattr(self._nccl, f"NCCL_{name.upper()}"))


class NcclLane:
    """Moves device buffers of one group by NCCL."""

    max_count: int | None = None
    sums_as_inner = False

    def __init__(self, xp: ModuleType, stream: Any, calls: Calls | None) -> None:
        self._xp, self._stream, self._calls = xp, stream, calls

    def start(self, call: Callable[[Calls], None], ready: Event) -> Pending[Event]:
        assert self._calls is not None, "a rank alone moves nothing"
        self._stream.wait_event(ready)
        call(self._calls)
        filled = self._xp.cuda.Event(disable_timing=True)
        self._stream.record(filled)
        return Done(filled)

    def dup(self, comm: Communicator) -> "NcclLane":
        return self


class NcclGroups:
    """Makes the lane of each group of ranks, all on one stream."""

    def __init__(self, nccl: ModuleType, xp: ModuleType) -> None:
        self._nccl, self._xp = nccl, xp
        self._stream = xp.cuda.Stream(non_blocking=True)

    def lane(self, comm: Communicator) -> NcclLane:
        """Return the lane of `comm`, with an NCCL communicator whose id is its rank 0's. All ranks call."""
        if comm.size == 1:
            return NcclLane(self._xp, self._stream, None)
        unique_id = comm.all_gather_object(self._nccl.get_unique_id() if comm.rank == 0 else b"")[0]
        communicator = self._nccl.NcclCommunicator(comm.size, unique_id, comm.rank)
        return NcclLane(self._xp, self._stream, NcclCalls(self._nccl, communicator, self._stream))
