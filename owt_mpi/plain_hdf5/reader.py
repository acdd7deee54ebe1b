"""HDF5 files of the form that h5py writes by default: superblock 0, groups as symbol tables, object headers 1.

What is there is found by the HDF5 File Format Specification, version 3.0, whose section numbers are given. Links to
other files and other names, arrays kept in other files, virtual ones and newer forms are not followed: Hdf5Error.
"""

import contextlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from owt_mpi.plain_hdf5.arrays import DEFLATE, SHUFFLE, Chunk, ChunkedArray, FileArray, check_chunks, grid
from owt_mpi.plain_hdf5.messages import UNDEFINED, Message, number, parse_attribute, parse_shape, parse_type
from owt_mpi.plain_hdf5.source import Hdf5Error, Source

LIBVER = "earliest"  # what makes h5py write that form
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SPACE, _LINK_INFO, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0xB, 0xC, 0x10, 0x11
_MOST_LEVELS, _LARGEST_MESSAGE, _LONGEST_NAME = 32, 1 << 16, 1024

Array = FileArray | ChunkedArray


class PlainHdf5:
    """An open HDF5 file. `attributes` are its own, `names` those of its datasets, with the groups that they are in.

    Hdf5Error if it is no HDF5 file of that form, or is cut short or damaged; OSError if it cannot be opened. Arrays are
    read as long as it is open.
    """

    def __init__(self, path: Path) -> None:
        self._source = Source(path)
        try:
            root = self._root()
            self._objects: dict[str, list[Message]] = {}
            messages = list(self._messages(root))
            self.attributes = self._attributes(messages)
            self._walk("", messages, 0)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> "PlainHdf5":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the datasets, such as "labels" or "weights/trunk.conv1.weight"."""
        return tuple(self._objects)

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._source.descriptor

    def array(self, name: str) -> Array:
        """Return a dataset, to be read. Hdf5Error if there is none of that name, or none that is read here."""
        if name not in self._objects:
            raise Hdf5Error(f"has no dataset {name!r}")
        by_kind = {message.kind: message for message in self._objects[name]}
        if _EXTERNAL in by_kind:
            raise Hdf5Error(f"has {name!r} in another file")
        space, element, layout = (self._content(by_kind, kind) for kind in (_SPACE, _TYPE, _LAYOUT))
        shape, dtype = parse_shape(space), parse_type(element).dtype
        if dtype is None:
            raise Hdf5Error(f"has texts of any length in {name!r}, which are not read here")
        attributes = self._attributes(self._objects[name])
        version, kind = number(layout, 0, 1), number(layout, 1, 1)
        if version != 3 or kind > 2:  # version 4: virtual datasets
            raise Hdf5Error(f"has {name!r} in a layout that is not read here (version {version}, class {kind})")
        filters = self._filters(self._content(by_kind, _FILTERS)) if _FILTERS in by_kind else []
        if kind == 2:
            return self._chunked(layout, shape, dtype, filters, attributes)
        if filters:
            raise Hdf5Error(f"has {name!r} compressed, but not in chunks")
        offset = by_kind[_LAYOUT].offset + 4 if kind == 0 else number(layout, 2, 8)
        return FileArray(self._source, 0 if offset == UNDEFINED and 0 in shape else offset, shape, dtype, attributes)

    def _root(self) -> int:
        """Return the address of the root group's header, from the superblock (II.A)."""
        if self._source.size < 96 or (head := self._source.part(0, 96))[:8] != SIGNATURE:
            raise Hdf5Error("is no HDF5 file")
        if head[8] > 1:
            raise Hdf5Error(f"is in a newer form of HDF5 than is read here (superblock {head[8]})")
        start = 24 + 4 * head[8]
        base, end, address = (number(head, start + at, 8) for at in (0, 16, 40))
        if (head[13], head[14], base) != (8, 8, 0):
            raise Hdf5Error("is in an unusual form of HDF5, which is not read here")
        if end > self._source.size:
            raise Hdf5Error(f"is truncated: it has {self._source.size} of {end} bytes")
        return address

    def _messages(self, address: int) -> Iterator[Message]:
        """Yield the messages of the object header (IV.A.1.a) at `address`."""
        head = self._source.part(address, 16)
        if head[0] != 1:
            raise Hdf5Error("has an object header of another form than is read here")
        blocks = [(address + 16, number(head, 8, 4))]
        for first, size in blocks:
            position, end = first, first + size
            while position + 8 <= end:
                start = self._source.part(position, 8)
                message = Message(number(start, 0, 2), start[4], position + 8, number(start, 2, 2))
                position = message.offset + message.size
                if position > end:
                    raise Hdf5Error("has a message that is longer than its object header")
                if message.kind == _CONTINUATION:
                    content = self._source.part(message.offset, 16)
                    blocks.append((number(content, 0, 8), number(content, 8, 8)))
                elif message.kind:
                    yield message

    def _content(self, by_kind: dict[int, Message], kind: int) -> bytes:
        message = by_kind.get(kind)
        if message is None or message.flags & 2 or message.size > _LARGEST_MESSAGE:
            raise Hdf5Error("has a dataset without shape, type or place, or with one that is elsewhere")
        return self._source.part(message.offset, message.size)

    def _attributes(self, messages: list[Message]) -> dict[str, Any]:
        """Return the attributes that can be read; others are as if they were not there."""
        found: dict[str, Any] = {}
        for message in messages:
            if message.kind == _ATTRIBUTE and not message.flags & 2:
                with contextlib.suppress(Hdf5Error):
                    name, value = parse_attribute(self._source, self._source.part(message.offset, message.size))
                    found[name] = value
        return found

    def _walk(self, path: str, messages: list[Message], level: int) -> None:
        """Enter the datasets in the group whose header has these messages, and in the groups in it."""
        by_kind = {message.kind: message for message in messages}
        if _LINK in by_kind or _LINK_INFO in by_kind:
            raise Hdf5Error("has a group in a newer form, or with links to other files, which are not followed")
        if _SYMBOL_TABLE not in by_kind or level > _MOST_LEVELS:
            raise Hdf5Error("has a group that is none, or groups within groups without end")
        table = self._content(by_kind, _SYMBOL_TABLE)
        names = self._heap(number(table, 8, 8))
        for name_at, address, cache_type in self._entries(number(table, 0, 8), 0):
            name = f"{path}{_text_at(names, name_at)}"
            if cache_type == 2:
                raise Hdf5Error(f"has a link {name!r}, which is not followed")
            own = list(self._messages(address))
            if any(message.kind in (_SYMBOL_TABLE, _LINK, _LINK_INFO) for message in own):
                self._walk(f"{name}/", own, level + 1)
            elif any(message.kind == _LAYOUT for message in own):
                self._objects[name] = own

    def _entries(self, address: int, level: int) -> Iterator[tuple[int, int, int]]:
        """Yield place of the name, address and kind of what a group holds: its B-tree (III.A.1), its nodes (III.B)."""
        signature = self._source.part(address, 4)
        if signature == b"SNOD":
            count = self._source.number(address + 6, 2)
            content = self._source.part(address + 8, 40 * count)
            for at in range(0, len(content), 40):
                yield number(content, at, 8), number(content, at + 8, 8), number(content, at + 16, 4)
            return
        for child, _ in self._children(address, 0, 8, level):
            yield from self._entries(child, level + 1)

    def _children(self, address: int, tree_type: int, key_bytes: int, level: int) -> Iterator[tuple[int, bytes]]:
        """Yield the children of a node of a B-tree, each with the key before it."""
        head = self._source.part(address, 24)
        if head[:5] != b"TREE" + bytes([tree_type]) or level > _MOST_LEVELS:
            raise Hdf5Error("has an index that is damaged")
        count, each = number(head, 6, 2), key_bytes + 8
        content = self._source.part(address + 24, count * each)
        for at in range(0, len(content), each):
            yield number(content, at + key_bytes, 8), content[at : at + key_bytes]

    def _heap(self, address: int) -> bytes:
        """Return the names of a group: its local heap (III.D)."""
        head = self._source.part(address, 32)
        if head[:5] != b"HEAP\0":
            raise Hdf5Error("has a group without names")
        return self._source.part(number(head, 24, 8), number(head, 8, 8))

    def _filters(self, content: bytes) -> list[int]:
        """Return the filters of a pipeline (IV.A.2.l). Hdf5Error if one of them is not undone here."""
        version, count = number(content, 0, 1), number(content, 1, 1)
        position, found = 8 if version == 1 else 2, []
        for _ in range(count):
            kind = number(content, position, 2)
            if version not in (1, 2) or kind not in (DEFLATE, SHUFFLE):
                raise Hdf5Error(f"is compressed by a filter ({kind}) that is not undone here")
            has_name = version == 1
            name_bytes = number(content, position + 2, 2) if has_name else 0
            num_values = number(content, position + (6 if has_name else 4), 2)
            padded = num_values + num_values % 2 if has_name else num_values
            position += (8 if has_name else 6) + -(-name_bytes // 8) * 8 + 4 * padded
            found.append(kind)
        return found

    def _chunked(
        self,
        layout: bytes,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        filters: list[int],
        attributes: dict[str, Any],
    ) -> ChunkedArray:
        """Return an array in chunks, whose index (III.A.1, type 1) is read."""
        num_sizes, address = number(layout, 2, 1), number(layout, 3, 8)
        chunk_shape = tuple(number(layout, 11 + 4 * axis, 4) for axis in range(num_sizes - 1))
        check_chunks(self._source, shape, chunk_shape, dtype)
        counts = grid(shape, chunk_shape)
        chunks = dict(self._chunks(address, chunk_shape, 0)) if address != UNDEFINED else {}
        if len(chunks) != prod(counts) or any(
            not all(0 <= at < count for at, count in zip(place, counts, strict=True)) for place in chunks
        ):
            raise Hdf5Error(f"has {len(chunks)} chunks of an array with {prod(counts)}")
        return ChunkedArray(self._source, shape, dtype, chunk_shape, chunks, filters, attributes)

    def _chunks(
        self, address: int, chunk_shape: tuple[int, ...], level: int
    ) -> Iterator[tuple[tuple[int, ...], Chunk]]:
        key_bytes = 8 * (len(chunk_shape) + 2)
        node_level = self._source.part(address, 6)[5]
        for child, key in self._children(address, 1, key_bytes, level):
            if node_level > 0:
                yield from self._chunks(child, chunk_shape, level + 1)
                continue
            chunk = Chunk(child, number(key, 0, 4))
            self._source.check_range(chunk.offset, chunk.size)
            starts = [number(key, 8 + 8 * axis, 8) for axis in range(len(chunk_shape))]
            if number(key, 4, 4) or any(start % length for start, length in zip(starts, chunk_shape, strict=True)):
                raise Hdf5Error("has chunks that are compressed in part, or not in a grid, which are not read here")
            yield tuple(start // length for start, length in zip(starts, chunk_shape, strict=True)), chunk


def _text_at(names: bytes, start: int) -> str:
    end = names.find(b"\0", start, start + _LONGEST_NAME)
    if end < 0:
        raise Hdf5Error("has a name without an end")
    return names[start:end].decode("utf-8", "replace")
