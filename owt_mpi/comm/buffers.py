"""What lies in memory around an MPI call: which arrays it takes, and blocks packed before it and unpacked after."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from owt_mpi.comm.base import Array, check_array

MAX_COUNT = 2**31 - 1  # MPI-3 counts elements in a C int


class Scratch:
    """Buffers that calls on one CommThread use one after another; each grows to the largest ever asked for."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return a C-contiguous array with arbitrary values, valid until `name` is asked for again."""
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if name not in self._buffers or self._buffers[name].size < num_bytes:
            self._buffers[name] = np.empty(num_bytes, np.uint8)
        return self._buffers[name][:num_bytes].view(dtype).reshape(shape)


def is_leading(shape: tuple[int, ...], axis: int) -> bool:
    """Return whether equal blocks along `axis` lie one after another in memory."""
    return all(length == 1 for length in shape[:axis])


def joined_shape(block_shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    """Return the shape of `count` blocks joined along `axis`."""
    return (*block_shape[:axis], count * block_shape[axis], *block_shape[axis + 1 :])


def write_blocks(blocks: Array, axis: int, out: Array) -> None:
    """Write blocks[0], blocks[1], ... one after another along `axis` of `out`."""
    step = blocks.shape[1 + axis]
    for index, block in enumerate(blocks):
        out[(slice(None),) * axis + (slice(index * step, (index + 1) * step),)] = block


def blocks_of(flat: Array, counts: Sequence[int]) -> list[Array]:
    """Return the parts of `flat` that have that many elements, as views."""
    return [flat[stop - count : stop] for count, stop in zip(counts, accumulate(counts), strict=True)]


def counts_of(x: Array, num_rows: Sequence[int]) -> list[int]:
    """Return the number of elements in that many rows of x, for each rank."""
    row = int(np.prod(x.shape[1:], dtype=np.int64))
    return [row * rows for rows in num_rows]


def check_message(x: Array, num_copies: int = 1) -> None:
    """Raise ValueError unless MPI can take x."""
    if not isinstance(x, np.ndarray):
        raise ValueError(f"MPI moves NumPy arrays, x is a {type(x).__module__}.{type(x).__name__}; copy it to the host")
    check_array(x)
    check_count(x, num_copies, MAX_COUNT)


def check_count(x: Array, num_copies: int, max_count: int) -> None:
    """Raise ValueError unless that many copies of x are at most `max_count` elements."""
    if x.size * num_copies > max_count:
        raise ValueError(
            f"x of shape {x.shape} makes a message of {x.size * num_copies} elements, and MPI counts to {max_count}; "
            "send it in parts"
        )
