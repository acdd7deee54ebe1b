"""A global array in a checkpoint: blocks in the parts that ranks wrote, of which any slice is read."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

from owt_mpi.checkpoint.format import CheckpointError
from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.reader import Array, PlainHdf5
from owt_mpi.plain_hdf5.source import Hdf5Error


@dataclass(frozen=True)
class Block:
    """A part of a global array: the elements `where` of it. `file` is what it lies in."""

    file: Path
    where: tuple[slice, ...]
    global_shape: tuple[int, ...]
    array: FileArray


class GlobalArray:
    """An array of `shape` and `dtype`, read when it is sliced: by `...`, slices without steps, and indices.

    `blocks` lie in files that are open as long as it is read.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Sequence[Block]) -> None:
        self.shape, self.dtype, self.blocks = shape, dtype, blocks

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def __getitem__(self, key: EllipsisType | int | slice | tuple[int | slice, ...]) -> np.ndarray:
        keys: list[int | slice] = [] if key is ... else [*key] if isinstance(key, tuple) else [key]
        keys += [slice(None)] * (len(self.shape) - len(keys))
        spans = [_span(each, length) for each, length in zip(keys, self.shape, strict=True)]
        out = np.empty([stop - start for start, stop in spans], self.dtype)
        for block in self.blocks:
            common = [
                (max(start, own.start), min(stop, own.stop))
                for (start, stop), own in zip(spans, block.where, strict=True)
            ]
            if all(start < stop for start, stop in common):
                rows, *others = (
                    slice(a - own.start, b - own.start) for (a, b), own in zip(common, block.where, strict=True)
                )
                target = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(common, spans, strict=True))
                of_rows = (slice(None), *others)
                out[target] = block.array[rows][of_rows]
        return np.asarray(out[tuple(0 if isinstance(each, int) else slice(None) for each in keys)])


def open_arrays(part_files: Iterable[Path], opened: ExitStack) -> dict[str, GlobalArray]:
    """Return the global arrays in the parts, by name; `opened` closes the files.

    CheckpointError, naming a file, if one is damaged, or if they do not hold every element of an array once.
    """
    found: dict[str, list[Block]] = {}
    for path in part_files:
        try:
            file = opened.enter_context(PlainHdf5(path))
            for name in file.names:
                found.setdefault(name, []).append(_block(path, name, file.array(name)))
        except Hdf5Error as error:
            raise CheckpointError(f"{path} {error}; take another checkpoint") from error
    return {name: _joined(name, blocks) for name, blocks in found.items()}


def _block(path: Path, name: str, array: Array) -> Block:
    """Return the dataset `name` of a part as a block. Hdf5Error if it is none."""
    start, shape = (_lengths(array, key, name) for key in ("start", "global_shape"))
    if not isinstance(array, FileArray) or array.dtype.kind != "f":
        raise Hdf5Error(f"has {name!r} as {array.dtype} or in chunks, and not as floating-point numbers in one piece")
    where = tuple(slice(first, first + length) for first, length in zip(start, array.shape, strict=True))
    inside = all(0 <= own.start < own.stop <= length for own, length in zip(where, shape, strict=True))
    if not array.shape or not inside:
        raise Hdf5Error(f"has {name!r} of shape {array.shape} at {start} of a global array {shape}")
    return Block(path, where, shape, array)


def _joined(name: str, blocks: Sequence[Block]) -> GlobalArray:
    """Return the global array of `blocks`. CheckpointError unless they hold each element of it once."""
    first = blocks[0]
    shape, dtype = first.global_shape, first.array.dtype
    for block in blocks:
        if (block.global_shape, block.array.dtype) != (shape, dtype):
            raise CheckpointError(
                f"{block.file} has {name!r} as a part of {block.global_shape} {block.array.dtype}, {first.file.name} "
                f"of {shape} {dtype}; take another checkpoint"
            )
    edges = [
        {(own.start, own.stop) for own in along_axis} for along_axis in zip(*(b.where for b in blocks), strict=True)
    ]
    covers = all(_follow_one_another(pairs, length) for pairs, length in zip(edges, shape, strict=True))
    places = {tuple(own.start for own in block.where) for block in blocks}
    if not covers or not len(places) == len(blocks) == prod(map(len, edges)):  # parts are blocks of a grid
        raise CheckpointError(
            f"{first.file} and the other parts do not hold {name!r} of shape {shape} once and whole; take another "
            "checkpoint"
        )
    return GlobalArray(shape, dtype, blocks)


def _span(key: int | slice, length: int) -> tuple[int, int]:
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        assert step == 1
        return start, max(stop, start)
    if not -length <= key < length:
        raise IndexError(f"{key} is not in 0 .. {length - 1}")
    return key % length, key % length + 1


def _follow_one_another(pairs: set[tuple[int, int]], length: int) -> bool:
    """Return whether these (start, end) lead from 0 to `length`, each beginning where another ends."""
    position = 0
    for start, end in sorted(pairs):
        if start != position:
            return False
        position = end
    return position == length


def _lengths(array: Array, key: str, name: str) -> tuple[int, ...]:
    """Return an attribute that has a number for each axis."""
    values = array.attributes.get(key)
    if isinstance(values, tuple) and len(values) == len(array.shape) and all(type(each) is int for each in values):
        return values
    raise Hdf5Error(f"does not say where in the global array {name!r} is ({key} {values!r:.100})")
