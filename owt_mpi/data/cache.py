"""A copy of shards in memory, one a node: shared memory that the node's ranks fill together and all read.

The memory has a name only until all ranks have opened it, so it is gone with the last of them, however a job ends.
"""

import mmap
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from owt_mpi.backends.host_memory import host_memory
from owt_mpi.comm.base import Communicator
from owt_mpi.data.manifest import DataError
from owt_mpi.data.shard_format import ShardReader

T = TypeVar("T")

SHARED_MEMORY = Path("/dev/shm")
NAME = "owt_mpi-cache-"
GIB = 1 << 30
_PIECE_BYTES = 1 << 26  # copied at a time, the ranks taking turns
_ALIGNMENT = 4096
_MOST = 0.9  # of the memory that is free: what trains needs some too


class Part(Protocol):
    """A uint8 array, or what reads one along its first axis: a memory map, a FileArray, a ChunkedArray."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        ...

    def __getitem__(self, key: slice, /) -> Any: ...


@dataclass(frozen=True)
class Cached:
    """The first of the given parts as they are in memory, read-only, and one line that says how much that is."""

    parts: list[np.ndarray]
    description: str


def keep_in_memory(parts: Sequence[Part], most_bytes: int, node: Communicator) -> Cached:
    """Return copies of the first of `parts` (the same on all ranks): what fits into `most_bytes` and the memory.

    `node` is the communicator of the ranks that share memory (`split_by_node`); all of them call, and all raise
    DataError where reading or memory fails any of them.
    """
    sizes = [int(np.prod(part.shape, dtype=np.int64)) for part in parts]
    ends = list(accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes))
    free = int(_MOST * min(node.all_gather_object(free_bytes())))
    count = sum(end <= min(most_bytes, free) for end in ends)
    if count == len(parts):
        description = f"all of {_in_words(sum(sizes))} in memory, once a node"
    else:
        limit = (
            f"--cache allows {_in_words(most_bytes)}"
            if most_bytes <= free
            else f"{_in_words(free)} are nine tenths of what is free"
        )
        kept = (
            f"{_in_words(sum(sizes[:count]))} in memory, once a node; the rest from disk"
            if count
            else "nothing in memory"
        )
        description = f"{kept}: there are {_in_words(sum(sizes))}, and {limit}"
    if count == 0:
        return Cached([], description)
    starts = [0, *ends][:count]
    memory, file = _open_shared(ends[count - 1], node)
    try:
        _together(node, lambda: _fill(file, parts[:count], starts, node))
    finally:
        os.close(file)
    kept_parts = [
        np.frombuffer(memory, np.uint8, size, start).reshape(part.shape)
        for part, size, start in zip(parts[:count], sizes[:count], starts, strict=True)
    ]
    return Cached(kept_parts, description)


def cache_shards(readers: Sequence[ShardReader], most_bytes: int, node: Communicator) -> str:
    """Make `readers` read from a node's memory what fits of their shards, and return a line that says what does.

    The readers and their order are the same on all ranks of `node`; see keep_in_memory.
    """
    cached = keep_in_memory([part for reader in readers for part in reader.images_by_shard()], most_bytes, node)
    copies = iter(cached.parts)
    for reader in readers:
        reader.read_from(list(islice(copies, len(reader.images_by_shard()))))
    return cached.description


def free_bytes(folder: Path = SHARED_MEMORY) -> int:
    """Return how many bytes may be kept now: the least of free memory, shared memory's room and the job's limit."""
    room = os.statvfs(folder)
    return max(min(room.f_bavail * room.f_frsize, *(memory.free for memory in host_memory())), 0)


def _open_shared(num_bytes: int, node: Communicator) -> tuple[mmap.mmap, int]:
    """Return new memory that the ranks of a node share, read-only, and its file. By then it has lost its name."""
    path = SHARED_MEMORY / node.all_gather_object(f"{NAME}{os.getpid()}-{secrets.token_hex(8)}")[0]

    def create() -> None:
        if node.rank == 0:
            with path.open("xb") as file:
                file.truncate(num_bytes)

    def open_and_map() -> tuple[mmap.mmap, int]:
        file = os.open(path, os.O_RDWR)
        return mmap.mmap(file, num_bytes, prot=mmap.PROT_READ), file

    try:
        _together(node, create)
        return _together(node, open_and_map)
    finally:
        if node.rank == 0:
            path.unlink(missing_ok=True)


def _fill(file: int, parts: Sequence[Part], starts: Sequence[int], node: Communicator) -> None:
    """Write this rank's pieces. By calls, not through the map: where memory runs out a map gets a signal."""
    pieces = [
        (part, first, rows, start + first * row_bytes)
        for part, start in zip(parts, starts, strict=True)
        for row_bytes in [int(np.prod(part.shape[1:], dtype=np.int64))]
        for rows in [max(_PIECE_BYTES // row_bytes, 1)]
        for first in range(0, part.shape[0], rows)
    ]
    for part, first, rows, position in pieces[node.rank :: node.size]:
        content = np.ascontiguousarray(part[first : first + rows]).reshape(-1).data
        written = 0
        while written < len(content):
            written += os.pwrite(file, content[written:], position + written)


def _together(node: Communicator, step: Callable[[], T]) -> T:
    """Return what `step` returns on this rank, or raise DataError on all where it raised OSError on any."""
    error = None
    try:
        result = step()
    except OSError as raised:
        error = raised
    failed = [text for text in node.all_gather_object(error and str(error)) if text is not None]
    if failed:
        raise DataError(f"the cache cannot be filled ({failed[0]}); give less memory by --cache, or 0") from error
    return result


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.2f} MiB"
