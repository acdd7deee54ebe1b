"""MATLAB files of version 5, as ImageNet's kit has one: an array of structures of numbers and texts.

SciPy's reader is not made for files that nobody vouches for, says its documentation, and crashes on some damaged ones.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

_HEADER_BYTES = 128
_LARGEST_CONTENT = 1 << 26  # bytes unpacked; ImageNet's have less than one MiB
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4  # classes of arrays
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by type
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_BYTE_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
Value = float | str | None
_WRONG = "it is no MATLAB file of version 5, or is cut short"


@dataclass(frozen=True)
class _Element:
    """A data element: its type and its bytes."""

    kind: int
    content: bytes


@dataclass(frozen=True)
class _Array:
    """An array's class, shape and name, and the elements that are left: its values."""

    class_: int
    shape: tuple[int, ...]
    name: str
    values: Iterator[_Element]


def read_structs(content: bytes, name: str, fields: tuple[str, ...]) -> list[tuple[Value, ...]]:
    """Return some fields of each structure in the array `name`: a number, a text, or None for what is neither.

    ValueError if the file is no MATLAB file of version 5, is damaged, or has no such array or fields.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER_BYTES])
    if order is None:
        raise ValueError(_WRONG)
    for element in _elements(content[_HEADER_BYTES:], order):
        packed = element.kind == _COMPRESSED
        matrix = next(_elements(_unpacked(element.content), order), None) if packed else element
        array = _array(matrix, order)
        if array is not None and array.name == name and array.class_ == _STRUCT:
            return _fields(array, fields, order)
    raise ValueError(f"it has no array of structures {name!r}")


def _elements(content: bytes, order: str) -> Iterator[_Element]:
    """Yield the elements that lie end to end. Small ones have tag and content in eight bytes."""
    position, byte_order = 0, _BYTE_ORDERS[order]
    while position + 8 <= len(content):
        kind, size = (int.from_bytes(content[at : at + 4], byte_order) for at in (position, position + 4))
        start = position + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        if start + size > len(content) or (start == position + 4 and size > 4):
            raise ValueError(_WRONG)
        yield _Element(kind, content[start : start + size])
        padded = size if kind == _COMPRESSED else -(-size // 8) * 8
        position = position + 8 if start == position + 4 else start + padded


def _unpacked(content: bytes) -> bytes:
    try:
        unpacked = zlib.decompressobj().decompress(content, _LARGEST_CONTENT + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged ({error})") from error
    if len(unpacked) > _LARGEST_CONTENT:
        raise ValueError(f"it unpacks to more than {_LARGEST_CONTENT} bytes")
    return unpacked


def _array(element: _Element | None, order: str) -> _Array | None:
    """Return the array that a matrix element holds, None for an empty one, or another kind of element."""
    if element is None or element.kind != _MATRIX or not element.content:
        return None
    parts = _elements(element.content, order)
    flags, shape, name = (next(parts, None) for _ in range(3))
    if flags is None or shape is None or name is None:
        raise ValueError(_WRONG)
    lengths = tuple(_numbers(shape, order).tolist())
    if any(length < 0 for length in lengths):
        raise ValueError(_WRONG)
    return _Array(int(_numbers(flags, order)[0]) & 0xFF, lengths, name.content.decode("latin-1"), parts)


def _fields(array: _Array, wanted: tuple[str, ...], order: str) -> list[tuple[Value, ...]]:
    """Return the `wanted` fields of an array of structures, each of which has its fields one after the other."""
    length, joined = next(array.values, None), next(array.values, None)
    width = 0 if length is None else int(_numbers(length, order)[0])
    if joined is None or width < 1:
        raise ValueError(_WRONG)
    names = [
        joined.content[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(joined.content), width)
    ]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"its structures have no field {missing[0]!r}")
    values = [_value(element, order) for element in array.values]
    if len(values) != prod(array.shape) * len(names):
        raise ValueError(f"it has {len(values)} values of {prod(array.shape)} structures with {len(names)} fields")
    places = [names.index(name) for name in wanted]
    return [tuple(values[at + place] for place in places) for at in range(0, len(values), len(names))]


def _value(element: _Element, order: str) -> Value:
    """Return a text, or a lone number; None for what is neither."""
    array = _array(element, order)
    content = None if array is None else next(array.values, None)
    if array is None or content is None:
        return None
    if array.class_ == _CHAR and content.kind in _TEXTS:
        name = _TEXTS[content.kind]
        return content.content.decode(name + ("-le" if order == "<" else "-be") * (name == "utf-16"))
    if content.kind in _NUMBERS and prod(array.shape) == 1:
        return float(_numbers(content, order)[0])
    return None


def _numbers(element: _Element, order: str) -> np.ndarray:
    """Return the numbers in an element, one at least."""
    dtype = np.dtype(f"{order}{_NUMBERS.get(element.kind, 'u1')}")
    if element.kind not in _NUMBERS or not element.content or len(element.content) % dtype.itemsize:
        raise ValueError(_WRONG)
    return np.frombuffer(element.content, dtype)
