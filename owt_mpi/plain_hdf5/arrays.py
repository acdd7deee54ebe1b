"""Arrays in a file, of which rows are read by position: such as lie there in one piece, and such in chunks."""

import itertools
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from owt_mpi.plain_hdf5.source import Hdf5Error, Source

LARGEST_CHUNK = 1 << 28  # bytes
_MOST_DEFLATED = 1032  # to 1 is what deflate reaches
DEFLATE, SHUFFLE = 1, 2


class FileArray:
    """The array of `shape` at `offset` of a file: `array[index]` and `array[start:stop]` along its first axis.

    What is asked for is read into a new array, by reads at positions, which threads may make at the same time.
    Hdf5Error if it is not all in the file.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if prod(max(length, 1) for length in shape) * dtype.itemsize > source.size:  # if empty along one axis too
            raise Hdf5Error(f"says that it holds an array {shape} of {dtype}, and has {source.size} bytes")
        source.check_range(offset, prod(shape) * dtype.itemsize)
        self.shape, self.dtype, self.offset, self.attributes = shape, dtype, offset, attributes or {}
        self._source = source
        self._row_bytes = prod(shape[1:]) * dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> np.ndarray:
        start, stop = _range_of(key, self.shape, self._source)
        rows = self._read(start * self._row_bytes, (stop - start, *self.shape[1:]))
        return rows if isinstance(key, slice) else rows.reshape(self.shape[1:])

    def read(self) -> np.ndarray:
        """Return the whole array."""
        return self._read(0, self.shape)

    def _read(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape, self.dtype)
        content = out.reshape(-1).view(np.uint8).data
        position, done = self.offset + start, 0
        while done < len(content):
            num_bytes = os.preadv(self._source.descriptor, [content[done:]], position + done)
            if num_bytes == 0:
                raise OSError(f"{self._source.path} has no byte {position + done}: it was cut while it was open")
            done += num_bytes
        return out


@dataclass(frozen=True)
class Chunk:
    """Where a chunk is in the file, and in how many bytes."""

    offset: int
    size: int


class ChunkedArray:
    """An array in chunks of one shape, perhaps deflated: read like a FileArray, but slowly.

    `chunks` are by their places in the grid, `filters` (DEFLATE, SHUFFLE) in the order in which they were applied.
    """

    def __init__(
        self,
        source: Source,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...],
        chunks: Mapping[tuple[int, ...], Chunk],
        filters: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.shape, self.dtype, self.attributes = shape, dtype, attributes or {}
        self._source, self._chunk_shape, self._chunks, self._filters = source, chunk_shape, chunks, tuple(filters)
        self._last: tuple[tuple[int, ...], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> np.ndarray:
        start, stop = _range_of(key, self.shape, self._source)
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        num_rows = self._chunk_shape[0]
        others = [range(count) for count in grid(self.shape, self._chunk_shape)[1:]]
        for place in itertools.product(range(start // num_rows, -(-stop // num_rows)), *others):
            first = place[0] * num_rows
            rows = slice(max(start, first), min(stop, first + num_rows))
            others_at = (slice(at * n, (at + 1) * n) for at, n in zip(place[1:], self._chunk_shape[1:], strict=True))
            where = (slice(rows.start - start, rows.stop - start), *others_at)
            of_chunk = (
                slice(rows.start - first, rows.stop - first),
                *(slice(length) for length in out[where].shape[1:]),  # of those at the edge a part only
            )
            out[where] = self._chunk(place)[of_chunk]
        return out if isinstance(key, slice) else out.reshape(self.shape[1:])

    def read(self) -> np.ndarray:
        """Return the whole array."""
        return self[:]

    def _chunk(self, place: tuple[int, ...]) -> np.ndarray:
        last = self._last  # one read of it: other threads set it
        if last is not None and last[0] == place:
            return last[1]
        chunk, size = self._chunks[place], prod(self._chunk_shape) * self.dtype.itemsize
        content = os.pread(self._source.descriptor, chunk.size, chunk.offset)
        for each in reversed(self._filters):
            content = _inflated(content, size) if each == DEFLATE else _unshuffled(content, self.dtype.itemsize)
        if len(content) != size:
            raise Hdf5Error(f"has a chunk of {len(content)} bytes instead of {size}")
        values = np.frombuffer(content, self.dtype).reshape(self._chunk_shape)
        self._last = place, values
        return values


def grid(shape: Sequence[int], chunk_shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many chunks there are along each axis."""
    return tuple(-(-length // chunk) for length, chunk in zip(shape, chunk_shape, strict=True))


def check_chunks(source: Source, shape: tuple[int, ...], chunk_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise Hdf5Error unless a file of that size may hold such an array."""
    if (
        not shape
        or len(chunk_shape) != len(shape)
        or any(not 1 <= chunk <= max(length, 1) for chunk, length in zip(chunk_shape, shape, strict=True))
    ):
        raise Hdf5Error(f"has chunks {chunk_shape} of an array {shape}")
    if prod(chunk_shape) * dtype.itemsize > LARGEST_CHUNK:
        raise Hdf5Error(f"has chunks {chunk_shape} of {dtype}, of more than {LARGEST_CHUNK} bytes")
    if prod(max(length, 1) for length in shape) * dtype.itemsize > source.size * _MOST_DEFLATED:
        raise Hdf5Error(f"says that it holds an array {shape} of {dtype}, and has {source.size} bytes")


def _range_of(key: int | slice, shape: tuple[int, ...], source: Source) -> tuple[int, int]:
    """Return the rows, first and stop, that `key` names."""
    if isinstance(key, slice):
        start, stop, step = key.indices(shape[0])
        assert step == 1
        assert start <= stop
        return start, stop
    if not -shape[0] <= key < shape[0]:
        raise IndexError(f"{source.path}: {key} is not in 0 .. {shape[0] - 1}")
    return key % shape[0], key % shape[0] + 1


def _inflated(content: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, size + 1)
    except zlib.error as error:
        raise Hdf5Error(f"has a damaged chunk ({error})") from error


def _unshuffled(content: bytes, itemsize: int) -> bytes:
    if len(content) % itemsize:
        raise Hdf5Error(f"has a chunk of {len(content)} bytes, no multiple of {itemsize}")
    by_element: bytes = np.frombuffer(content, np.uint8).reshape(itemsize, -1).T.tobytes()
    return by_element
