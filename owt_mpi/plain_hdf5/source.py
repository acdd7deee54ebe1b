"""An open file of which parts are read by position: never beyond its end, and never more parts than a limit."""

import os
import weakref
from pathlib import Path

from owt_mpi.disk import open_regular

MOST_PARTS, MOST_BYTES = 100_000, 1 << 28  # of the structure of one file: far more than any of ours has


class Hdf5Error(ValueError):
    """What is wrong with a file, in words that go on from its name."""


class Source:
    """The file `path`, open until `close`.

    It counts the parts of its structure that are looked at, and their bytes: that ends, within a second or so, what
    goes round in circles, such as a group in itself, and what is to be read a thousand times over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = open_regular(path)
        except ValueError as error:
            raise Hdf5Error(str(error)) from error
        self._close = weakref.finalize(self, os.close, self.descriptor)  # also where nobody calls `close`
        self.size = os.fstat(self.descriptor).st_size
        self._parts_left, self._bytes_left = MOST_PARTS, MOST_BYTES

    def part(self, offset: int, count: int) -> bytes:
        """Return `count` bytes of the structure from `offset`. Hdf5Error if they are not all in the file."""
        self.check_range(offset, count)
        self._parts_left -= 1
        self._bytes_left -= count
        if min(self._parts_left, self._bytes_left) < 0:
            raise Hdf5Error(f"has a structure of more than {MOST_PARTS} parts, or one that goes round in circles")
        content = os.pread(self.descriptor, count, offset)
        if len(content) != count:
            raise Hdf5Error("was cut while it was read")
        return content

    def check_range(self, offset: int, count: int) -> None:
        """Raise Hdf5Error unless the file has these bytes."""
        if not 0 <= offset <= offset + count <= self.size:
            raise Hdf5Error(f"points to bytes {offset} to {offset + count}, and has {self.size}")

    def number(self, offset: int, num_bytes: int = 8) -> int:
        """Return the unsigned number at `offset`."""
        return int.from_bytes(self.part(offset, num_bytes), "little")

    def close(self) -> None:
        """Close the file."""
        self._close()
