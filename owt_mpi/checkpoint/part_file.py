"""The file of one rank's parts, written with little of the processor's time: the training goes on meanwhile.

HDF5 makes the file in memory with places for the arrays, whose bytes are written here by themselves: past the page
cache where the file system can do that (O_DIRECT), and hashed while they are in the processor's cache. So they are read
from memory once, the file is not read again, and the kernel has no pages to find, fill and clean.
"""

import errno
import hashlib
import mmap
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from owt_mpi.checkpoint.format import FileEntry
from owt_mpi.checkpoint.parts import Part
from owt_mpi.disk import write_at
from owt_mpi.plain_hdf5.writer import MemoryHdf5

_ALIGNMENT = 4096  # of what is written past the page cache: place in the file, length, memory
_BLOCK_BYTES = 1 << 20  # fits in the processor's cache
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)


def write_parts(path: Path, parts: Iterable[Part]) -> FileEntry:
    """Write a rank's parts to `path`, bring them to the disk, and return what the manifest says of the file."""
    places = []
    with MemoryHdf5(_ALIGNMENT) as memory, path.open("wb", buffering=0) as file:
        for part in parts:
            places.append((memory.place(part.name, part.values.shape, part.values.dtype), part.values))
            dataset = memory.file[part.name]
            dataset.attrs["start"], dataset.attrs["global_shape"] = part.start, part.global_shape
        for position, content in memory.around():
            write_at(file.fileno(), memoryview(content), position)
        file.truncate(position)  # to where it ends
    with _Target(path) as target:
        for offset, values in sorted(places, key=lambda place: place[0]):
            if values.size:
                target.pass_over(offset)
                target.write(values)
        return target.finished()


class _Target:
    """A file that has all but its arrays, filled and hashed from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._position, self._digest = 0, hashlib.sha256()
        with ExitStack() as opened:
            self._file = opened.enter_context(path.open("r+b", buffering=0))
            self._size = os.fstat(self._file.fileno()).st_size
            self._block = np.frombuffer(mmap.mmap(-1, _BLOCK_BYTES), np.uint8)  # mmap: it begins at a page
            self._direct: int | None = None
            try:
                self._direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
                opened.callback(os.close, self._direct)
            except OSError as error:
                if error.errno not in _NOT_DIRECT:
                    raise
            self._opened = opened.pop_all()

    def __enter__(self) -> "_Target":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def pass_over(self, end: int) -> None:
        """Hash what is there until `end`."""
        while self._position < end:
            content = os.pread(self._file.fileno(), min(end - self._position, _BLOCK_BYTES), self._position)
            assert content, "the file has been cut"
            self._digest.update(content)
            self._position += len(content)

    def write(self, values: np.ndarray) -> None:
        """Write and hash an array."""
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        for start in range(0, len(content), _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, len(content) - start)
            self._block[:length] = content[start : start + length]
            filled = self._block[:length].data
            self._digest.update(filled)
            whole = length // _ALIGNMENT * _ALIGNMENT if self._position % _ALIGNMENT == 0 else 0
            self._write_direct(filled[:whole])
            write_at(self._file.fileno(), filled[whole:], self._position)
            self._position += length - whole

    def finished(self) -> FileEntry:
        """Bring the file to the disk, and return its size and SHA-256."""
        self.pass_over(self._size)
        os.fsync(self._file.fileno())
        return FileEntry(self._size, self._digest.hexdigest())

    def _write_direct(self, content: memoryview) -> None:
        """Write whole pages, past the page cache if that works."""
        if self._direct is not None and content:
            try:
                write_at(self._direct, content, self._position)
            except OSError as error:
                if error.errno not in _NOT_DIRECT:
                    raise
                self._direct = None
        if self._direct is None:
            write_at(self._file.fileno(), content, self._position)
        self._position += len(content)
