"""A temporary file for what has no bytes of its own on disk: compressed archives unpacked, bare pixels as images."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from owt_mpi.data.manifest import DataError

SPOOL_SUFFIX = ".spool.tmp"
LARGEST_GROWTH = 100  # compressed images hardly shrink; what grows more is a bomb
SMALL_BYTES = 1 << 28  # so much may come of any archive
_CHUNK = 1 << 20
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
_OPENERS: dict[str, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


def compression(head: bytes) -> str:
    """Return "gzip", "bzip2" or "xz" for a file that starts with `head`, "" for none of them."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def unpacked(file: IO[bytes], label: str, limit: int) -> Iterator[bytes]:
    """Yield what a compressed file holds, in chunks.

    DataError if it is damaged, or holds more than `limit` bytes. `label` names it in messages.
    """
    head = file.read(6)
    file.seek(0)
    opened = _OPENERS[compression(head)](file)
    num_bytes = 0
    while True:
        try:
            chunk = opened.read(_CHUNK)
        except _DAMAGED as error:
            raise DataError(f"{label} is damaged or cut short ({error}); fetch it again") from error
        if not chunk:
            return
        num_bytes += len(chunk)
        if num_bytes > limit:
            raise DataError(f"{label} unpacks to more than {limit} bytes, too many for images; unpack it yourself")
        yield chunk


class Spool:
    """A file in `folder`, made when first written to. Its name depends on `source` alone, so a new run replaces it."""

    def __init__(self, folder: str, source: str) -> None:
        name = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.path = os.path.join(os.path.abspath(folder), name + SPOOL_SUFFIX)
        self._file: IO[bytes] | None = None

    @property
    def used(self) -> bool:
        """Whether there is such a file."""
        return self._file is not None

    def append(self, data: bytes) -> int:
        """Write `data` and return its place in the file. DataError if there is no room for it."""
        try:
            if self._file is None:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
                self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115  # until it is removed
            start = self._file.tell()
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written ({error.strerror}): what is compressed is unpacked into it; make room, "
                "or unpack it yourself elsewhere"
            ) from error
        return start

    def unpack(self, file: IO[bytes], offset: int, num_bytes: int, label: str) -> tuple[int, int]:
        """Append what the compressed bytes at `offset` of `file` hold; return where that starts and ends.

        DataError if they are damaged, grow so much that they cannot be images, or do not fit on the disk.
        """
        start = end = self.append(b"")
        compressed = io.BufferedReader(_Range(file.fileno(), offset, num_bytes), _CHUNK)
        for chunk in unpacked(compressed, label, max(LARGEST_GROWTH * num_bytes, SMALL_BYTES)):
            self.append(chunk)
            end += len(chunk)
        return start, end

    def finish(self) -> str | None:
        """Close the file for writing; return where it is, if there is one."""
        if self._file is None:
            return None
        self._file.close()
        return self.path

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None
            os.unlink(self.path)


class _Range(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        self._descriptor, self._start, self._num_bytes, self._position = descriptor, start, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = origin + position
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        count = max(min(len(buffer), self._num_bytes - self._position), 0)
        num_read = os.preadv(self._descriptor, [buffer[:count]], self._start + self._position) if count else 0
        self._position += num_read
        return num_read
