"""Transports for arrays of a device over calls that run one after another: in chunks through pinned memory, or direct.

A chunk goes from the device to pinned memory, through a collective of the host, and back. While one is in the
collective, the next is on its way from the device and the one before on its way back, each on a stream of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from types import ModuleType

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.comm.base import Array, Communicator, Pending
from owt_mpi.comm.buffers import MAX_COUNT, blocks_of
from owt_mpi.comm.calls import Calls, engine_of
from owt_mpi.comm.device_arrays import DeviceCommunicator, Event

CHUNK_BYTES = 4 << 20  # long enough for the full rate of a bus; not yet measured on one
NUM_SLOTS = 4  # two on their way from the device, one in its collective, one on its way back


def pinned_bytes(chunk_bytes: int) -> int:
    """Return the pinned memory that chunks of that size take: in each slot one that is sent and one that is filled."""
    return NUM_SLOTS * 2 * chunk_bytes


@dataclass(frozen=True)
class _Round:
    """One chunk: parts of device buffers that are sent and filled, and the collective of their copies on the host."""

    sent: list[Array]
    filled: list[Array]
    call: Callable[[np.ndarray, np.ndarray], None]


class _Slot:
    """Pinned memory for one chunk at a time. `sent` is recorded behind its copies from the device, `filled` to it."""

    def __init__(self, xp: ModuleType, least_bytes: int) -> None:
        self._xp, self._least_bytes = xp, least_bytes
        self._buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self.sent = xp.cuda.Event(block=True, disable_timing=True)
        self.filled = xp.cuda.Event(block=True, disable_timing=True)

    def take(self, a_round: _Round) -> None:
        """Make room for a round, when the last one's copies are done."""
        self.filled.synchronize()
        self.source = self._room(0, a_round.sent)
        self.target = self._room(1, a_round.filled)

    def _room(self, index: int, parts: list[Array]) -> np.ndarray:
        if not parts:
            return np.empty(0, np.uint8)
        num_bytes = sum(part.nbytes for part in parts)
        if self._buffers[index].size < num_bytes:
            size = max(num_bytes, self._least_bytes)
            self._buffers[index] = np.frombuffer(self._xp.cuda.alloc_pinned_memory(size), np.uint8, size)
        return self._buffers[index][:num_bytes].view(parts[0].dtype)


class Staging:
    """The pinned memory and the copy streams of one rank, used by one collective after another."""

    def __init__(self, xp: ModuleType, device: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.xp, self.device, self.chunk_bytes = xp, device, chunk_bytes
        with xp.cuda.Device(device):
            self._from_device = xp.cuda.Stream(non_blocking=True)
            self._to_device = xp.cuda.Stream(non_blocking=True)
            self._slots = [_Slot(xp, chunk_bytes) for _ in range(NUM_SLOTS)]

    def run(self, call: Callable[[Calls], None], calls: Calls, comm: Communicator, ready: Event) -> Event:
        """Make `call` on device buffers through `calls` of `comm`; return the event behind which they are filled.

        The host waits for copies, which wait for `ready`; nothing is put on the caller's stream.
        """
        with self.xp.cuda.Device(self.device):
            self._from_device.wait_event(ready)  # and so does all else: the host waits for copies on this stream
            call(StagedCalls(self, calls, comm.rank, comm.size))
            filled = self.xp.cuda.Event(disable_timing=True)
            self._to_device.record(filled)
            return filled

    def pipeline(self, rounds: list[_Round]) -> None:
        """Run the rounds in order. The last one's way back to the device is still under way on return."""
        ahead = 2
        for index, a_round in enumerate(rounds):
            for later in range(0 if index == 0 else index + ahead, min(index + ahead + 1, len(rounds))):
                self._send(self._slots[later % NUM_SLOTS], rounds[later])
            slot = self._slots[index % NUM_SLOTS]
            slot.sent.synchronize()
            a_round.call(slot.source, slot.target)
            self._fill(slot, a_round)

    def _send(self, slot: _Slot, a_round: _Round) -> None:
        slot.take(a_round)
        for part, place in _pieces(a_round.sent, slot.source):
            part.get(stream=self._from_device, out=place, blocking=False)
        slot.sent.record(self._from_device)

    def _fill(self, slot: _Slot, a_round: _Round) -> None:
        for part, place in _pieces(a_round.filled, slot.target):
            part.set(place, stream=self._to_device)
        slot.filled.record(self._to_device)


class StagedCalls:
    """Calls on flat device buffers, in rounds that hold an equal stretch of every rank's block."""

    def __init__(self, staging: Staging, calls: Calls, rank: int, size: int) -> None:
        self._staging, self._calls, self._rank, self._size = staging, calls, rank, size

    def all_reduce(self, x: Array, out: Array) -> None:
        """Sum chunk by chunk: each element's sum is that of one MPI call."""
        self._run(_Round([x[part]], [out[part]], self._calls.all_reduce) for part in self._stretches(x.size, 1, x))

    def all_gather(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        def rounds() -> Iterator[_Round]:
            blocks = blocks_of(out, counts)
            for part in self._stretches(max(counts), len(counts), x):
                some = _stretch_of(counts, part)
                filled = [block[part] for block in blocks]
                yield _Round([x[part]], filled, partial(self._calls.all_gather, counts=some))

        self._run(rounds())

    def reduce_scatter(self, x: Array, out: Array, counts: Sequence[int]) -> None:
        def rounds() -> Iterator[_Round]:
            blocks = blocks_of(x, counts)
            for part in self._stretches(max(counts), len(counts), x):
                some = _stretch_of(counts, part)
                sent = [block[part] for block in blocks]
                yield _Round(
                    sent,
                    [out[part]],
                    partial(self._calls.reduce_scatter, counts=some),
                )

        self._run(rounds())

    def broadcast(self, x: Array, root: int) -> None:
        def send(source: np.ndarray, target: np.ndarray) -> None:
            self._calls.broadcast(source if self._rank == root else target, root)

        self._run(
            _Round([x[part]], [], send) if self._rank == root else _Round([], [x[part]], send)
            for part in self._stretches(x.size, 1, x)
        )

    def reduce(self, x: Array, out: Array | None, root: int) -> None:
        def sum_up(source: np.ndarray, target: np.ndarray) -> None:
            self._calls.reduce(source, None if out is None else target, root)

        self._run(
            _Round([x[part]], [] if out is None else [out[part]], sum_up) for part in self._stretches(x.size, 1, x)
        )

    def all_to_all(self, x: Array, out: Array) -> None:
        size = self._size
        sent, filled = blocks_of(x, [x.size // size] * size), blocks_of(out, [x.size // size] * size)
        self._run(
            _Round([block[part] for block in sent], [block[part] for block in filled], self._calls.all_to_all)
            for part in self._stretches(x.size // size, size, x)
        )

    def _stretches(self, length: int, num_blocks: int, x: Array) -> Iterator[slice]:
        """Cut `length` elements of every block into stretches, all blocks' of which fill a chunk together."""
        step = max(1, self._staging.chunk_bytes // (num_blocks * x.dtype.itemsize))
        return (slice(start, min(start + step, length)) for start in range(0, length, step))

    def _run(self, rounds: Iterable[_Round]) -> None:
        self._staging.pipeline(list(rounds))


class StagedLane:
    """Moves device buffers of `comm` through pinned memory."""

    max_count: int | None = None
    sums_as_inner = True

    def __init__(self, comm: Communicator, staging: Staging) -> None:
        self._comm, self._engine, self._staging = comm, engine_of(comm), staging

    def start(self, call: Callable[[Calls], None], ready: Event) -> Pending[Event]:
        return self._engine.submit(lambda: self._staging.run(call, self._engine.calls, self._comm, ready))

    def dup(self, comm: Communicator) -> "StagedLane":
        return StagedLane(comm, self._staging)


class DirectLane:
    """Lets calls that take device buffers (those of CUDA-aware MPI) have them."""

    max_count: int | None = MAX_COUNT
    sums_as_inner = True

    def __init__(self, comm: Communicator, xp: ModuleType, device: int) -> None:
        self._engine, self._xp, self._device = engine_of(comm), xp, device

    def start(self, call: Callable[[Calls], None], ready: Event) -> Pending[None]:
        """The thread that makes the call waits for `ready`: MPI knows no streams."""

        def direct() -> None:
            with self._xp.cuda.Device(self._device):
                ready.synchronize()
                call(self._engine.calls)

        return self._engine.submit(direct)

    def dup(self, comm: Communicator) -> "DirectLane":
        return DirectLane(comm, self._xp, self._device)


def device_of(backend: Backend) -> int:
    """Return the number of the device that `backend` computes on, in this process."""
    return int(backend.from_host(np.zeros(1, np.float32)).device.id)


def staged(comm: Communicator, backend: Backend, chunk_bytes: int = CHUNK_BYTES) -> Communicator:
    """Return what moves `backend`'s arrays over the ranks of `comm`: `comm` itself where they are the host's."""
    if backend.device is None:
        return comm
    staging = Staging(backend.xp, device_of(backend), chunk_bytes)
    return DeviceCommunicator(comm, backend.xp, lambda inner: StagedLane(inner, staging))


def _stretch_of(counts: Sequence[int], part: slice) -> list[int]:
    """Return how many elements of `part` blocks of that many elements have."""
    return [max(0, min(count, part.stop) - part.start) for count in counts]


def _pieces(parts: list[Array], host: np.ndarray) -> Iterator[tuple[Array, np.ndarray]]:
    """Return each of the parts that are not empty with its place in `host`, where they lie one after another."""
    stops = accumulate(part.size for part in parts)
    return ((part, host[stop - part.size : stop]) for part, stop in zip(parts, stops, strict=True) if part.size)
