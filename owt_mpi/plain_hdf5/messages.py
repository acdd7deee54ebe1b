"""The messages of an object header that say what an array is: its shape, its type, where it is, its attributes.

Section numbers are those of the HDF5 File Format Specification, version 3.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from owt_mpi.plain_hdf5.source import Hdf5Error, Source

UNDEFINED = 2**64 - 1  # an address that leads nowhere
LARGEST_ATTRIBUTE, _LARGEST_HEAP = 1 << 16, 1 << 18
_MOST_AXES = 32
_FLOATS = {  # by bytes: precision, places and widths of exponent and mantissa, as IEEE 754 has them; bias
    2: (0, 16, 10, 5, 0, 10, 15),
    4: (0, 32, 23, 8, 0, 23, 127),
    8: (0, 64, 52, 11, 0, 52, 1023),
}


@dataclass(frozen=True)
class Message:
    """One message of an object header: what it is, and where its content is in the file."""

    kind: int
    flags: int
    offset: int
    size: int


@dataclass(frozen=True)
class ElementType:
    """The type of an array's elements; None for text of any length, which is elsewhere in the file."""

    dtype: np.dtype[Any] | None
    size: int  # bytes


def number(content: bytes, offset: int, num_bytes: int) -> int:
    """Return an unsigned number of a message. Hdf5Error if the message is too short for it."""
    if offset + num_bytes > len(content):
        raise Hdf5Error("has a message that is too short for what is in it")
    return int.from_bytes(content[offset : offset + num_bytes], "little")


def parse_shape(content: bytes) -> tuple[int, ...]:
    """Return the shape that a dataspace message (IV.A.2.b) gives."""
    version, num_axes = number(content, 0, 1), number(content, 1, 1)
    if version not in (1, 2) or num_axes > _MOST_AXES:
        raise Hdf5Error(f"has a dataspace of version {version} and {num_axes} axes")
    if version == 2 and number(content, 3, 1) > 1:
        raise Hdf5Error("has an array without elements or shape")
    start = 8 if version == 1 else 4
    return tuple(number(content, start + 8 * axis, 8) for axis in range(num_axes))


def parse_type(content: bytes) -> ElementType:
    """Return the type that a datatype message (IV.A.2.d) gives: integers, IEEE floats and text. Others: Hdf5Error."""
    kind, version = number(content, 0, 1) & 15, number(content, 0, 1) >> 4
    bits, size = number(content, 1, 3), number(content, 4, 4)
    if version not in (1, 3):
        raise Hdf5Error(f"has a datatype of version {version}")
    order = "><"[not bits & 1]
    if kind == 0 and size in (1, 2, 4, 8) and (number(content, 8, 2), number(content, 10, 2)) == (0, 8 * size):
        return ElementType(np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"), size)
    if kind == 1 and size in _FLOATS and not bits & 0x40:
        fields = [
            number(content, 8 + at, width) for at, width in ((0, 2), (2, 2), (4, 1), (5, 1), (6, 1), (7, 1), (8, 4))
        ]
        if tuple(fields) == _FLOATS[size] and bits >> 4 & 3 == 2 and bits >> 8 == 8 * size - 1:
            return ElementType(np.dtype(f"{order}f{size}"), size)
    if kind == 3 and size > 0:
        return ElementType(np.dtype(f"S{size}"), size)
    if kind == 9 and bits & 15 == 1 and size == 16:
        return ElementType(None, size)
    raise Hdf5Error(f"has elements of a type that is not read here (class {kind}, {size} bytes)")


def parse_attribute(source: Source, content: bytes) -> tuple[str, Any]:
    """Return name and value of an attribute (IV.A.2.m): a number, a text, or a tuple of these, nested as lists."""
    version, flags = number(content, 0, 1), number(content, 1, 1)
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise Hdf5Error(f"has an attribute of version {version}, or one whose type is elsewhere")
    lengths = [number(content, at, 2) for at in (2, 4, 6)]
    position = 9 if version == 3 else 8
    pieces = []
    for length in lengths:
        pieces.append(content[position : position + length])
        position += -(-length // 8) * 8 if version == 1 else length
    name = pieces[0].split(b"\0")[0].decode("utf-8", "replace")
    element, shape = parse_type(pieces[1]), parse_shape(pieces[2])
    if prod(shape) * element.size > LARGEST_ATTRIBUTE:
        raise Hdf5Error(f"has an attribute {name!r} of {prod(shape)} elements")
    data = content[position : position + prod(shape) * element.size]
    if len(data) != prod(shape) * element.size:
        raise Hdf5Error(f"has an attribute {name!r} that is cut short")
    return name, _value(source, data, shape, element)


def _value(source: Source, data: bytes, shape: Sequence[int], element: ElementType) -> Any:
    if element.dtype is None:
        if shape:
            raise Hdf5Error("has an attribute of several texts")
        return _heap_text(source, data)
    values = np.frombuffer(data, element.dtype).reshape(shape).tolist()
    if shape:
        return tuple(values)
    return values.decode("utf-8", "replace") if isinstance(values, bytes) else values


def _heap_text(source: Source, reference: bytes) -> str:
    """Return the text that a reference of 16 bytes (IV.B.9) leads to, in a global heap (III.E)."""
    length, address, wanted = (number(reference, at, width) for at, width in ((0, 4), (4, 8), (12, 4)))
    if length > LARGEST_ATTRIBUTE:
        raise Hdf5Error(f"has a text of {length} bytes")
    head = source.part(address, 16)
    size = number(head, 8, 8)
    if head[:5] != b"GCOL\1" or size > _LARGEST_HEAP:
        raise Hdf5Error("has a text that is not where it should be")
    heap, position = source.part(address, size), 16
    while position + 16 <= size and (index := number(heap, position, 2)) != 0:
        item_bytes = number(heap, position + 8, 8)
        if index == wanted:
            return heap[position + 16 : position + 16 + min(length, item_bytes)].decode("utf-8", "replace")
        position += 16 + -(-item_bytes // 8) * 8
    raise Hdf5Error("has a text that is not where it should be")
