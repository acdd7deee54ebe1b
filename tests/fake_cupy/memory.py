"""Device and pinned memory: a pool a stream that hands freed blocks out again, full of NaN."""

import ctypes
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.fake_cupy.blocks import ALIGNMENT, LOCK, TOTAL_BYTES, Block, CUDARuntimeError
from tests.fake_cupy.device import check_driver
from tests.fake_cupy.engine import Stream, get_current_stream


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class MemoryPool:
    """cupy.cuda.MemoryPool. A freed block goes to the next array of its size on the stream that it was made for.

    It does so at once, as in CuPy, whatever work on other streams may still use it. What it holds goes with it.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[Stream, int], list[Block]] = defaultdict(list)
        weakref.finalize(self, _give_back, self._free)
        self._used, self._free_bytes, self._limit = 0, 0, 0

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return self._free_bytes

    def total_bytes(self) -> int:
        return self._used + self._free_bytes

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        assert (size is None) != (fraction is None), "one of the two"
        self._limit = int(TOTAL_BYTES * fraction) if fraction is not None else int(size or 0)

    def free_all_blocks(self, stream: Stream | None = None) -> None:
        with LOCK:
            _give_back(self._free)
            self._free_bytes = 0

    def n_free_blocks(self) -> int:
        return sum(len(blocks) for blocks in self._free.values())

    def malloc(self, size: int) -> "Allocation":
        """Return memory for an array on the current device and stream; NaN, as long as nothing writes to it.

        In a capture it is NaN in every launch again. Of the pool that all share there is none then: a launch would
        write where other arrays are by that time.
        """
        check_driver()
        rounded = -(-size // ALIGNMENT) * ALIGNMENT
        stream = get_current_stream()
        if stream.is_capturing() and self is _default_pool:
            raise CUDARuntimeError(f"{size} bytes of the pool that all arrays share, taken while a graph is captured")
        with LOCK:
            free = self._free[stream, rounded]
            if free:
                block = free.pop()
                self._free_bytes -= rounded
            else:
                if self._used + self._free_bytes + rounded > (self._limit or TOTAL_BYTES):
                    self.free_all_blocks()
                if self._used + rounded > (self._limit or TOTAL_BYTES):
                    raise OutOfMemoryError(f"Out of memory allocating {rounded:,} bytes (allocated: {self._used:,})")
                block = Block(rounded, stream.device_id)
            self._used += rounded
        stream._enqueue(lambda: block.bytes.fill(0xFF), writes=[(block, block.bytes)])  # NaN, of whatever size
        return Allocation(self, stream, block)

    def _take_back(self, stream: Stream, block: Block) -> None:
        with LOCK:
            self._used -= block.bytes.size
            self._free_bytes += block.bytes.size
            self._free[stream, block.bytes.size].append(block)


class Allocation:
    """A block, in use until the last array that has it is gone."""

    def __init__(self, pool: MemoryPool, stream: Stream, block: Block) -> None:
        self.block = block
        weakref.finalize(self, _take_back, weakref.ref(pool), stream, block)


def _take_back(pool: "weakref.ref[MemoryPool]", stream: Stream, block: Block) -> None:
    """Give the block to its pool, or to the driver where there is no pool any more."""
    owner = pool()
    if owner is None:
        block.is_gone = True
    else:
        owner._take_back(stream, block)


def _give_back(free: dict[tuple[Stream, int], list[Block]]) -> None:
    """Give all free blocks of a pool to the driver."""
    for blocks in free.values():
        for block in blocks:
            block.is_gone = True
    free.clear()


_default_pool = MemoryPool()


def new_default_pool() -> None:
    """Begin with empty pools: what a test left unfinished may still be in use."""
    global _default_pool  # noqa: PLW0603 - as CuPy has one
    _default_pool = MemoryPool()
    _pinned[:] = [each for each in _pinned if each.in_use]


def get_default_memory_pool() -> MemoryPool:
    """Return the pool of all arrays."""
    return _default_pool


class _Allocator(threading.local):
    """What the calling thread's arrays take memory from; None: the pool that all share."""

    malloc: Callable[[int], Allocation] | None = None


_allocator = _Allocator()


@contextmanager
def using_allocator(allocator: Callable[[int], Allocation]) -> Iterator[None]:
    """Let the calling thread's arrays take memory from `allocator`, a pool's malloc."""
    before, _allocator.malloc = _allocator.malloc, allocator
    try:
        yield
    finally:
        _allocator.malloc = before


def allocate(num_bytes: int) -> Allocation:
    """Return memory as the calling thread takes it."""
    return (_allocator.malloc or _default_pool.malloc)(num_bytes)


class PinnedBytes:
    """Pinned memory as it lies on the host: from the pool that hands it out again as soon as its array is gone."""

    def __init__(self, num_bytes: int) -> None:
        self.bytes = np.empty(num_bytes, np.uint8)
        self.start: int = self.bytes.__array_interface__["data"][0]
        self.in_use = False


class PinnedMemoryPointer(ctypes.Array):  # type: ignore[type-arg]
    """cupy.cuda.PinnedMemoryPointer: host memory that copies may use while the host goes on."""

    _type_, _length_ = ctypes.c_ubyte, 0  # sized subclasses are what there is
    ptr: int

    def size(self) -> int:
        return len(self)


_pinned: list[PinnedBytes] = []


def alloc_pinned_memory(size: int) -> Any:
    """Return pinned memory, that of an array that is gone if there is one of its size."""
    check_driver()
    with LOCK:
        found = next((each for each in _pinned if not each.in_use and each.bytes.size == size), None)
        if found is None:
            found = PinnedBytes(size)
            _pinned.append(found)
        found.in_use = True
        found.bytes.fill(0xFF)
    sized = type("PinnedMemoryPointer", (PinnedMemoryPointer,), {"_length_": size})
    pointer = sized.from_buffer(found.bytes.data)
    pointer.ptr = found.start
    weakref.finalize(pointer, setattr, found, "in_use", False)
    return pointer


def pinned_view(array: np.ndarray) -> np.ndarray | None:
    """Return a view of the same pinned memory that does not keep it from being given out again; None if it is not."""
    start = array.__array_interface__["data"][0]
    with LOCK:
        for each in _pinned:
            if each.start <= start and start + array.nbytes <= each.start + each.bytes.size:
                return np.ndarray(array.shape, array.dtype, each.bytes.data, start - each.start, array.strides)
    return None
