"""Where the members of an uncompressed tar are, by its headers alone: the images are jumped over, not read.

A tar in a tar is a range of the outer file, so its members are at absolute places of the outer file too. `tarfile`
takes the headers apart (GNU long names, pax); this module bounds what it may read and checks where it stops.
"""

import os
import sys
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from data_prep.sources.tree import Entry, Tree, clean_member, join
from owt_mpi.data.manifest import DataError

_LARGEST_HEADER = 1 << 20  # bytes of a long name or of pax records
_BLOCK = 512
_REFETCH = "fetch it again"


def index_tar(tree: Tree, prefix: str, descriptor: int, file: str, start: int, end: int, label: str) -> None:
    """Add to `tree`, in the folder `prefix`, the members of the tar at bytes `start` to `end` of `file`.

    The file is open as `descriptor`; `label` names the archive in messages. DataError if it is no tar, cut short or
    damaged.
    """
    for member in _members(descriptor, start, end, label):
        path, refusal = clean_member(member.name)
        path = join(prefix, path)
        if refusal or not (member.isdir() or (member.isfile() and not member.issparse())):
            tree.refused.append(f"{path} {refusal or _kind(member)}")
        elif member.isdir():
            tree.folders.add(path)
        else:
            folder, _, name = path.rpartition("/")
            tree.add(Entry(sys.intern(folder), name, file, member.offset_data, member.size))


def _kind(member: tarfile.TarInfo) -> str:
    return "is a sparse file" if member.issparse() else "is a link or a device"


def _members(descriptor: int, start: int, end: int, label: str) -> Iterator[tarfile.TarInfo]:
    window = _Window(descriptor, start, end)
    try:
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", window))
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would hold on to a million of them
            if member.size < 0 or archive.offset < member.offset_data:  # then tarfile may go back, and round for ever
                raise DataError(f"{label}: {_name(member)} has a negative size; {_REFETCH}")
            if not member.issparse() and member.isfile() and member.offset_data + member.size > end:
                there = max(end - member.offset_data, 0)
                raise DataError(
                    f"{label} is cut short: of the {member.size} bytes of {_name(member)} it has {there}; {_REFETCH}"
                )
            yield member
        _check_end(window, archive.offset, label)
    except (tarfile.TarError, OSError, RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{label} is damaged or not a tar archive ({error}); {_REFETCH}") from error


def _check_end(window: "_Window", position: int, label: str) -> None:
    """Raise DataError unless the blocks of zeros that close a tar are at `position`, where `tarfile` stopped."""
    window.seek(position)
    block = window.read(_BLOCK)
    if len(block) < _BLOCK:
        raise DataError(f"{label} is cut short: it ends without the blocks of zeros that close a tar; {_REFETCH}")
    if any(block):
        raise DataError(f"{label} is damaged: at byte {position} is no header of a member; {_REFETCH}")


def _name(member: tarfile.TarInfo) -> str:
    return clean_member(member.name)[0]


class _Window:
    """Bytes up to `end` of a file, at their places in that file, for the one reader `tarfile` is."""

    _AHEAD = 2048  # a member's last byte, long name and header in one read

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._position = start
        self._end = end
        self._buffer, self._buffer_start = b"", 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError("a member's size is negative")
        self._position = position
        return position

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        count = min(count, self._end - self._position)
        if count <= 0:
            return b""
        first = self._position - self._buffer_start
        if first < 0 or first + count > len(self._buffer):
            wanted = min(max(self._AHEAD, count), self._end - self._position)
            self._buffer = os.pread(self._descriptor, wanted, self._position)
            self._buffer_start, first = self._position, 0
        data = self._buffer[first : first + count]
        self._position += len(data)
        return data
