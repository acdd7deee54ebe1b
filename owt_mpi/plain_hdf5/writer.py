"""HDF5 files whose bytes are written by plain file calls: HDF5 itself meets no disk.

libhdf5 does not survive a full disk: it keeps the file open, or crashes later. So it makes the file in memory, where
large arrays are holes that take no room, and their bytes are written by whoever has them.
"""

import os
from collections.abc import Iterator
from io import FileIO
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from owt_mpi.disk import sync_folder, write_at
from owt_mpi.plain_hdf5.reader import LIBVER

_COPY_BYTES = 1 << 20


class MemoryHdf5:
    """An HDF5 file under way in memory, in the form that `PlainHdf5` reads. `file` is h5py's.

    `alignment` is that of arrays in the file.
    """

    def __init__(self, alignment: int = 1) -> None:
        self._memory = FileIO(os.memfd_create("hdf5", os.MFD_CLOEXEC), "r+")
        aligned = {"alignment_threshold": alignment, "alignment_interval": alignment} if alignment > 1 else {}
        self.file = h5py.File(self._memory, "w", libver=LIBVER, **aligned)
        self._places: list[tuple[int, int]] = []

    def place(self, name: str, shape: tuple[int, ...], dtype: Any) -> int:
        """Make an array whose bytes are not in memory, and return where they begin in the file; 0 if it has none."""
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # so that the bytes have a place before they are written
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dataset = self.file.create_dataset(name, shape, dtype, dcpl=early)
        if not dataset.size:
            return 0
        offset = int(dataset.id.get_offset())
        self._places.append((offset, int(dataset.nbytes)))
        return offset

    def around(self) -> Iterator[tuple[int, bytes]]:
        """Yield what the file has besides the arrays that were placed: where it is, and the bytes. Closes `file`.

        The last piece ends where the file does, and may be empty.
        """
        self.file.close()
        position, size = 0, os.fstat(self._memory.fileno()).st_size
        for offset, num_bytes in [*sorted(self._places), (size, 0)]:
            for start in range(position, offset, _COPY_BYTES):
                yield start, os.pread(self._memory.fileno(), min(_COPY_BYTES, offset - start), start)
            position = offset + num_bytes
        yield size, b""

    def content(self) -> bytes:
        """Return the whole file, of which no array was placed. Closes `file`."""
        assert not self._places
        return b"".join(content for _, content in self.around())

    def close(self) -> None:
        """Let go of the memory."""
        self.file.close()
        self._memory.close()

    def __enter__(self) -> "MemoryHdf5":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Hdf5Writer:
    """Writes an HDF5 file, which has its name when it is whole and on disk: after `finish`. A context manager.

    OSError, naming the file, where the disk is full; leaving it without `finish` removes what there is. `file` is
    h5py's, for what is small.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._disk = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._memory = MemoryHdf5()
        self.file = self._memory.file
        self._arrays: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}

    def place(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Make an array, to be filled by `write`."""
        self._arrays[name] = (self._memory.place(name, shape, dtype), shape, np.dtype(dtype))

    def write(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows of an array that was placed, from its row `first` on."""
        offset, shape, dtype = self._arrays[name]
        content = np.ascontiguousarray(rows, dtype)
        assert content.shape[1:] == shape[1:]
        assert 0 <= first <= first + len(content) <= shape[0]
        if content.size:
            start = offset + first * prod(shape[1:]) * dtype.itemsize
            self._write(content.reshape(-1).view(np.uint8).data, start)

    def finish(self) -> None:
        """Write all that is in memory, bring the file to the disk, and give it its name."""
        for position, content in self._memory.around():
            self._write(memoryview(content), position)
            end = position + len(content)
        try:
            if os.fstat(self._disk).st_size < end:  # the last array is not wholly written
                os.ftruncate(self._disk, end)
            os.fsync(self._disk)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._part.replace(self._path)
        sync_folder(self._path.parent)

    def _write(self, content: memoryview, position: int) -> None:
        try:
            write_at(self._disk, content, position)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def __enter__(self) -> "Hdf5Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._memory.close()
        os.close(self._disk)
        self._part.unlink(missing_ok=True)
